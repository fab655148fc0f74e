//! A command set of a DIMSE message: refused, or written and read again as the same.
#![no_main]
use dawson::pacs::dimse::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::decode(bytes) {
        let again = Command::decode(&command.encode());
        // A comment is cut to what the standard gives it, and its padding goes.
        let plain = |command: &Command| Command {
            error_comment: None,
            ..command.clone()
        };
        assert_eq!(again.as_ref().map(plain), Ok(plain(&command)));
    }
});
