/// Why bytes are not a valid message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The input ends too early.
    #[error("the message ends too early")]
    Truncated,
    /// The input goes on after the message.
    #[error("the message has trailing bytes")]
    TrailingBytes,
    /// A version that this build does not know.
    #[error("unknown version {0}")]
    UnknownVersion(u8),
    /// A type or kind that does not belong here.
    #[error("unexpected type {0}")]
    UnexpectedType(u8),
    /// A field has a value that is not allowed.
    #[error("the field `{0}` has a value that is not allowed")]
    InvalidField(&'static str),
    /// A field that must be there is missing.
    #[error("the field `{0}` is missing")]
    MissingField(&'static str),
    /// Fields are not in ascending order, or one is there twice.
    #[error("fields are out of order")]
    FieldOrder,
    /// A field marked as critical that this build does not know.
    #[error("unknown critical field {0}")]
    UnknownCriticalField(u8),
    /// A list or message is longer than its limit.
    #[error("`{0}` is longer than its limit")]
    TooLong(&'static str),
}
