//! The words every module speaks: address, principal, grant, change, cursor, refusal, context
