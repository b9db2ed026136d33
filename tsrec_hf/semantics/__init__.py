"""Meaning of SID tokens: teachers that describe them, and the descriptions that training uses."""

from .answer_cache import AnswerCache
from .chat_teacher import ChatTeacher, TeacherReport
from .describe import describe_tokens
from .inference_client_teacher import InferenceClientTeacher
from .keyword_teacher import KeywordTeacher
from .listing import list_recommendations
from .sampling import fill_budget, rank_by_typicality
from .teacher_prompt import build_question, parse_answer
from .token_semantics import TokenDescription, TokenSemantics
from .transformers_teacher import TransformersTeacher


__all__ = [
    "AnswerCache",
    "ChatTeacher",
    "InferenceClientTeacher",
    "KeywordTeacher",
    "TeacherReport",
    "TokenDescription",
    "TokenSemantics",
    "TransformersTeacher",
    "build_question",
    "describe_tokens",
    "list_recommendations",
    "fill_budget",
    "parse_answer",
    "rank_by_typicality",
]
