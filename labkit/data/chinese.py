"""Chinese sentences from a small grammar, written for this course: text without a download.

Data note: words and patterns below are the project's own (Apache-2.0), in simplified characters.
They make short texts about cities, days, food, school, computers and sums, a question with its
answer among them. The grammar is far more regular than Chinese: a model can learn it almost by
heart, and tokens fitted to it look better here than on text by people. Use it to see a mechanism,
not to measure a language.
"""

import hashlib

import numpy as np

CITIES = {
    "北京": ("华北", "故宫", "烤鸭"),
    "上海": ("华东", "外滩", "小笼包"),
    "广州": ("华南", "珠江夜景", "早茶"),
    "成都": ("西南", "大熊猫", "火锅"),
    "西安": ("西北", "古城墙", "羊肉泡馍"),
    "杭州": ("华东", "西湖", "龙井茶"),
    "武汉": ("华中", "长江大桥", "热干面"),
    "哈尔滨": ("东北", "冰雪节", "红肠"),
    "昆明": ("西南", "石林", "米线"),
    "厦门": ("东南沿海", "鼓浪屿", "海鲜"),
}
_SLOTS = {
    "person": "小明 小红 爸爸 妈妈 爷爷 王老师 李医生 我的朋友 我们 孩子们",
    "time": "今天早上 昨天晚上 上个星期 每天下午 周末 放学以后 去年冬天 吃完晚饭以后",
    "place": "公园 图书馆 超市 学校 医院 火车站 博物馆 河边 办公室",
    "act": "散步 看书 买东西 跑步 见朋友 拍照片 听音乐 写作业 学习汉语",
    "weather": "晴朗 多云 有小雨 下大雪 刮大风 又闷又热 非常寒冷",
    "advice": "多穿衣服 带上雨伞 多喝水 早点出发 留在家里休息 注意安全",
    "food": "米饭 面条 饺子 苹果 西瓜 豆腐 青菜 鱼汤 鸡蛋 包子",
    "taste": "很甜 有点辣 非常新鲜 又香又软 太咸了 很清淡",
    "subject": "数学 语文 历史 地理 物理 化学 音乐 英语",
    "feeling": "很有意思 有一点难 需要多练习 越学越喜欢 比以前容易 对工作很有帮助",
    "thing": "计算机 手机 程序 语言模型 搜索引擎 数据库 机器人 翻译软件",
    "use": "处理文字 回答问题 保存数据 翻译文章 画出图表 整理信息 计算结果 检查错误",
    "trait": "速度很快 使用方便 价格便宜 还不够准确 需要大量数据 越来越重要",
}
_PATTERNS = (
    "{person}{time}去{place}{act}。",
    "{time}，{person}和{person2}一起在{place}{act}。",
    "{city}今天{weather}，气温是{number}度，出门的时候要{advice}。",
    "天气预报说，明天{city}{weather}，请大家{advice}。",
    "{city}位于中国的{region}，以{sight}和{dish}闻名。",
    "如果你来{city}，一定要看看{sight}，再尝一尝{dish}。",
    "{person}喜欢吃{food}，因为它{taste}。",
    "这家店的{food}{taste}，可是{food2}{taste2}。",
    "{person}觉得{subject}{feeling}。",
    "老师说，学好{subject}的方法是每天练习{number}分钟。",
    "{thing}可以用来{use}，而且{trait}。",
    "虽然{thing}{trait}，但是人们仍然用它来{use}。",
    "{number}加{number2}等于{sum}。",
    "问：{city}有什么好吃的？答：{city}的{dish}很有名。",
    "问：{thing}有什么用？答：它可以帮助我们{use}。",
)
_DIGITS = "零一二三四五六七八九十"


def numeral(number: int) -> str:
    """A number from 0 to 99 in Chinese characters.

    Raises:
        ValueError: it lies outside.
    """
    if not 0 <= number <= 99:
        raise ValueError(f"number={number} must lie between 0 and 99")
    if number <= 10:
        return _DIGITS[number]
    tens, ones = divmod(number, 10)
    return (_DIGITS[tens] if tens > 1 else "") + "十" + (_DIGITS[ones] if ones else "")


def sentence(rng: np.random.Generator) -> str:
    """One sentence; what it says of a city or a sum is consistent."""
    drawn = {slot: str(rng.choice(words.split())) for slot, words in _SLOTS.items()}
    for slot in ("person", "food", "taste"):
        others = [word for word in _SLOTS[slot].split() if word != drawn[slot]]
        drawn[f"{slot}2"] = str(rng.choice(others))
    city = str(rng.choice(list(CITIES)))
    region, sight, dish = CITIES[city]
    a, b = (int(n) for n in rng.integers(1, 40, size=2))
    numbers = {"number": numeral(a), "number2": numeral(b), "sum": numeral(a + b)}
    pattern = str(rng.choice(_PATTERNS))
    return pattern.format(**drawn, **numbers, city=city, region=region, sight=sight, dish=dish)


def documents(count: int, *, sentences: int = 4, seed: int = 0) -> list[str]:
    """Texts of a few different sentences; equal seeds give equal texts.

    Raises:
        ValueError: a count is below 1, or `sentences` above 20.
    """
    if count < 1 or not 1 <= sentences <= 20:
        raise ValueError(f"count={count} must be at least 1, sentences={sentences} in [1, 20]")
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        drawn: dict[str, None] = {}
        while len(drawn) < sentences:
            drawn[sentence(rng)] = None
        texts.append("".join(drawn))
    return texts


def split(texts: list[str], *, held_out: float = 0.1) -> tuple[list[str], list[str]]:
    """Training and held-out texts, by a hash of the text: equal texts stay together.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out={held_out} must lie between 0 and 1")
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        digest = hashlib.sha256(text.encode()).digest()
        sides[int.from_bytes(digest[:4]) < held_out * 2**32].append(text)
    return sides
