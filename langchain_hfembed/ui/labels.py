"""What the page says, in English and in Korean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """The words of the page in one language; each field is named for its place."""

    intro: str
    source: str
    sources: dict[str, str]
    texts: str
    texts_help: str
    index: str
    index_help: str
    model: str
    model_help: str
    weights: str
    weights_help: str
    method: str
    reset: str
    shown: str
    query: str
    no_query: str
    count: str
    again: str
    no_texts: str
    no_index: str
    embedding: str
    searching: str
    views: dict[str, str]
    methods: dict[str, str]
    fusion: str
    fusion_help: str
    explain: str


ENGLISH = Labels(
    intro="One question, ranked by each view of a model; the weights decide how they are fused.",
    source="What to search",
    sources={"texts": "Texts", "index": "An index"},
    texts="One text a line",
    texts_help="They stay in memory; only what is new is embedded.",
    index="Index",
    index_help="What `hfembed index` made: a file, or `edge:FOLDER`.",
    model="Model",
    model_help=(
        "`demo`, what `.env` says, or type a model id or a folder. Servers are named when the page "
        "is started."
    ),
    weights="Weights",
    weights_help="Of each view's scores, over the candidates of the question.",
    method="How scores are fused",
    reset="Default weights",
    shown="Hits to show",
    query="Question",
    no_query="Type a question above.",
    count="{} texts",
    again="Search again",
    no_texts="Paste some texts on the left, one a line.",
    no_index="Name an index on the left. To make one: `hfembed index FOLDER --to knowledge.db`",
    embedding="Embedding the texts. The first time, the model is loaded.",
    searching="Searching. The first time, the model is loaded.",
    methods={
        "min_max": "weighted sum, min-max",
        "dbsf": "weighted sum, DBSF",
        "raw": "weighted sum, raw scores",
        "rrf": "reciprocal rank fusion",
    },
    views={"dense": "Dense", "sparse": "Sparse", "multi_vector": "Multi-vector"},
    fusion="Fusion",
    fusion_help="▲▼ against the default fusion",
    explain="Why does this text rank where it does?",
)

KOREAN = Labels(
    intro="질문 하나를 모델의 뷰마다 따로 순위 매기고, 가중치에 따라 융합합니다.",
    source="검색 대상",
    sources={"texts": "텍스트", "index": "인덱스"},
    texts="한 줄에 텍스트 하나",
    texts_help="메모리에만 있으며, 새로 추가된 줄만 임베딩합니다.",
    index="인덱스",
    index_help="`hfembed index`로 만든 파일 또는 `edge:폴더`.",
    model="모델",
    model_help=(
        "`demo`(데모 모델), `.env`의 설정, 또는 모델 ID나 폴더를 입력합니다. 서버는 "
        "페이지를 시작할 때 지정합니다."
    ),
    weights="가중치",
    weights_help="질문의 후보들에 대한 뷰별 점수의 가중치입니다.",
    method="융합 방식",
    reset="기본 가중치",
    shown="표시할 결과 수",
    query="질문",
    no_query="위에 질문을 입력하세요.",
    count="텍스트 {}개",
    again="다시 검색",
    no_texts="왼쪽에 텍스트를 한 줄에 하나씩 붙여 넣으세요.",
    no_index="왼쪽에 인덱스를 입력하세요. 만들기: `hfembed index 폴더 --to knowledge.db`",
    embedding="텍스트를 임베딩하는 중입니다. 처음에는 모델도 불러옵니다.",
    searching="검색 중입니다. 처음에는 모델도 불러옵니다.",
    methods={
        "min_max": "가중합, 최소-최대 정규화",
        "dbsf": "가중합, DBSF 정규화",
        "raw": "가중합, 원래 점수",
        "rrf": "상호 순위 융합 (RRF)",
    },
    views={"dense": "밀집 (dense)", "sparse": "희소 (sparse)", "multi_vector": "다중 벡터"},
    fusion="융합",
    fusion_help="▲▼는 기본 융합과의 순위 차이",
    explain="이 텍스트는 왜 이 순위일까요?",
)

LANGUAGES = {"English": ENGLISH, "한국어": KOREAN}
