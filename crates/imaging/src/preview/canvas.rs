//! An RGB picture to draw on.
use std::convert::Infallible;

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::{FONT_7X13, FONT_9X15_BOLD};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle};
use embedded_graphics::text::{Alignment, Text};

use super::Error;

const TEXT: Rgb888 = Rgb888::new(230, 230, 230);

/// An RGB picture to draw on.
pub(crate) struct Canvas {
    pub(crate) size: Size,
    /// Three bytes a pixel, row by row.
    pub(crate) rgb: Vec<u8>,
}

impl Canvas {
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self {
            size: Size::new(width, height),
            rgb: vec![0; (width * height * 3) as usize],
        }
    }

    pub(crate) fn set(&mut self, at: Point, colour: Rgb888) {
        let within = at.x >= 0
            && at.y >= 0
            && (at.x as u32) < self.size.width
            && (at.y as u32) < self.size.height;
        if within {
            let offset = 3 * (at.x as usize + at.y as usize * self.size.width as usize);
            self.rgb[offset..offset + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
        }
    }

    /// Lays another picture on this one; what sticks out is cut.
    pub(super) fn blit(&mut self, other: &Self, at: Point) {
        let [width, wide] = [self.size.width, other.size.width].map(|w| w as usize);
        let (Ok(x), Ok(y)) = (usize::try_from(at.x), usize::try_from(at.y)) else {
            return;
        };
        let length = 3 * wide.min(width.saturating_sub(x));
        let rows = self.rgb.chunks_exact_mut(3 * width).skip(y);
        for (row, from) in rows.zip(other.rgb.chunks_exact(3 * wide)) {
            row[3 * x..][..length].copy_from_slice(&from[..length]);
        }
    }

    pub(crate) fn coloured(&mut self, text: &str, x: u32, y: u32, colour: Rgb888) {
        let style = MonoTextStyle::new(&FONT_9X15_BOLD, colour);
        let drawn = Text::new(text, Point::new(x as i32, y as i32), style).draw(self);
        debug_assert!(drawn.is_ok());
    }

    pub(crate) fn text(&mut self, text: &str, x: u32, y: u32, alignment: Alignment) {
        let style = MonoTextStyle::new(&FONT_9X15_BOLD, TEXT);
        let drawn =
            Text::with_alignment(text, Point::new(x as i32, y as i32), style, alignment).draw(self);
        debug_assert!(drawn.is_ok());
    }

    pub(crate) fn small(&mut self, text: &str, at: Point) {
        self.small_coloured(text, at, [TEXT.r(), TEXT.g(), TEXT.b()]);
    }

    pub(crate) fn small_coloured(&mut self, text: &str, at: Point, [r, g, b]: [u8; 3]) {
        let style = MonoTextStyle::new(&FONT_7X13, Rgb888::new(r, g, b));
        let drawn = Text::new(text, at, style).draw(self);
        debug_assert!(drawn.is_ok());
    }

    pub(crate) fn line(&mut self, from: Point, to: Point) {
        let drawn = Line::new(from, to)
            .into_styled(PrimitiveStyle::with_stroke(TEXT, 1))
            .draw(self);
        debug_assert!(drawn.is_ok());
    }

    pub(super) fn png(self) -> Result<Vec<u8>, Error> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().map_err(Error::Png)?;
        writer.write_image_data(&self.rgb).map_err(Error::Png)?;
        writer.finish().map_err(Error::Png)?;
        Ok(file)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            self.set(at, colour);
        }
        Ok(())
    }
}
