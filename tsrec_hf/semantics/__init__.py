from .describe import describe_tokens
from .keyword_teacher import KeywordTeacher
from .token_semantics import TokenDescription, TokenSemantics


__all__ = ["KeywordTeacher", "TokenDescription", "TokenSemantics", "describe_tokens"]
