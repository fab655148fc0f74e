"""Bodies that schemathesis does not know, as it is to send them: bytes of any kind (loaded by its hooks)."""
import schemathesis

schemathesis.serializer.alias(["multipart/related", "application/dicom", "application/zip"], "application/octet-stream")
