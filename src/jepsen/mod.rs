//! The run plan, the history text and the judgement passed on a history.
