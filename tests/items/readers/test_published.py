"""Each named data set, in small files written as its own are."""

import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tsrec_hf.items import load_published
from tsrec_hf.items.readers import PUBLISHED


def seconds(*date):
    return datetime(*date, tzinfo=timezone.utc).timestamp()


GENRES = "|".join("0" * 19)
STEAM_GAMES = [
    {
        "publisher": "V",
        "genres": ["Action", "Indie"],
        "app_name": "Half-Life",
        "id": "70",
        "tags": ["FPS"],
        "price": 9.99,
    },
    {"app_name": "Lost 'Moons'", "id": "80", "genres": ["Strategy"], "tags": []},
]
STEAM_REVIEWS = [
    {"username": "Ann", "product_id": "70", "date": "2017-12-17", "text": 'It\'s "good"', "hours": 3.5, "page": 1},
    {"username": "Ann", "product_id": "80", "date": "2018-01-02", "compensation": "Product received for free"},
]
YELP_REVIEWS = [
    {"review_id": "r", "user_id": "u", "business_id": "b", "stars": 4.0, "text": "!", "date": "2018-07-07 22:09:11"}
]
YELP_BUSINESSES = [
    {"business_id": "b", "name": "Joe's", "city": "Reno", "categories": "Bars, Food", "hours": {"M": "0:0"}}
]
GOODREADS = [
    {"user_id": "u", "book_id": "5", "is_read": True, "rating": 3, "date_added": "Fri Aug 25 13:55:02 -0700 2017"},
    {"user_id": "u", "book_id": "6", "is_read": False, "rating": 0, "date_added": "Wed Aug 30 00:00:26 -0700 2017"},
]
GOODREADS_BOOKS = [
    {"book_id": "5", "title": "Hild", "description": "A seer.", "authors": [{"author_id": "1", "role": ""}]},
    {"book_id": "6", "title": "Ammonite", "description": "", "authors": []},
]

# Name, files, options, items (id, title, description) and interactions (user, item, time, rating).
CASES = {
    "ml-100k": (
        "movielens",
        {
            "u.data": "196\t242\t3\t881250949\n186\t302\t5\t891717742\n",
            "u.item": f"242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|{GENRES}\n"
            f'302|"Cérémonie", La (1995)|01-Jan-1995||http://x|{GENRES}\n',
        },
        {},
        [("242", "Kolya (1996)", ""), ("302", '"Cérémonie", La (1995)', "")],
        [("196", "242", 881250949.0, 3.0), ("186", "302", 891717742.0, 5.0)],
    ),
    "ml-1m": (
        "movielens",
        {
            "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
            "movies.dat": "1193::Misérables, Les: (1995)::Drama|Musical\n661::James: a (1996)::Children's\n",
        },
        {"min_rating": 4},
        [("1193", "Misérables, Les: (1995)", "Drama|Musical"), ("661", "James: a (1996)", "Children's")],
        [("1", "1193", 978300760.0, 5.0)],
    ),
    "ml-latest": (
        "movielens",
        {
            "ratings.csv": "userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n1,11,4.5,964982224\r\n",
            "movies.csv": 'movieId,title,genres\r\n1,Toy Story (1995),Comedy\r\n11,"President, The (1995)",Drama\r\n',
        },
        {},
        [("1", "Toy Story (1995)", "Comedy"), ("11", "President, The (1995)", "Drama")],
        [("1", "1", 964982703.0, 4.0), ("1", "11", 964982224.0, 4.5)],
    ),
    "steam": (
        "steam",
        {
            "steam_reviews.json": "".join(f"{row!r}\n" for row in STEAM_REVIEWS),
            "steam_games.json": "".join(f"{row!r}\n" for row in STEAM_GAMES),
        },
        {},
        [("70", "Half-Life", "Action Indie FPS"), ("80", "Lost 'Moons'", "Strategy")],
        [("Ann", "70", seconds(2017, 12, 17)), ("Ann", "80", seconds(2018, 1, 2))],
    ),
    "yelp": (
        "yelp",
        {
            "yelp_academic_dataset_review.json": "".join(json.dumps(row) + "\n" for row in YELP_REVIEWS),
            "yelp_academic_dataset_business.json": "".join(json.dumps(row) + "\n" for row in YELP_BUSINESSES),
        },
        {},
        [("b", "Joe's", "Bars, Food Reno")],
        [("u", "b", seconds(2018, 7, 7, 22, 9, 11), 4.0)],
    ),
    "hm": (
        "hm",
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,0000d8,0108775015,0.05,2\n",
            "articles.csv": "article_id,product_code,prod_name,product_type_name,colour_group_name,detail_desc\n"
            '0108775015,0108775,Strap top,Vest top,Black,"Jersey top, narrow"\n',
        },
        {},
        [("0108775015", "Strap top", "Vest top Black Jersey top, narrow")],
        [("0000d8", "0108775015", seconds(2018, 9, 20))],
    ),
    "retailrocket": (
        "retailrocket",
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n1433224214164,992329,transaction,248676,4\n",
            "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,355908,categoryid,1338\n"
            "1441508400000,355908,888,1116713 960601 n277.200\n",
            "item_properties_part2.csv": "timestamp,itemid,property,value\n1435460400000,248676,categoryid,7\n",
        },
        {"filters": {"event": "transaction"}},
        [("355908", "category 1338", ""), ("248676", "category 7", "")],
        [("992329", "248676", 1433224214164.0)],
    ),
    "taobao": (
        "taobao",
        {"UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n1,2268318,2520377,buy,1511561733\n"},
        {"filters": {"behavior": "buy"}},
        [("2268318", "category 2520377", "")],
        [("1", "2268318", 1511561733.0)],
    ),
    "mind": (
        "mind",
        {
            "behaviors.tsv": "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
            "2\tU91836\t11/12/2019 6:11:30 PM\t\tN35729-1 N55689-1 N1-0\n",
            "news.tsv": 'N55689\tsports\tfootball\t"Charles" Rogers, a star\tHe was 38.\thttp://x\t[{"L": "C"}]\t[]\n'
            "N35729\tnews\tnewsus\tPorsche launches\t\thttps://y\t[]\t[]\n",
        },
        {},
        [
            ("N55689", '"Charles" Rogers, a star', "sports football He was 38."),
            ("N35729", "Porsche launches", "news newsus"),
        ],
        [
            ("U13740", "N55689", seconds(2019, 11, 11, 9, 5, 58)),
            ("U91836", "N35729", seconds(2019, 11, 12, 18, 11, 30)),
            ("U91836", "N55689", seconds(2019, 11, 12, 18, 11, 30)),
        ],
    ),
    "bookcrossing": (
        "bookcrossing",
        {
            "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n"276726";"0155";"5"\n',
            "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\n'
            '"034545104X";"Flesh; \\"Tones\\" &amp; more";"M. J. Rosé";"2002";"Ballantine";"http://x"\n'
            '"0155";"Rites";"J";"2001";"Heinle";"http://y"\n',
        },
        {},
        [("034545104X", 'Flesh; "Tones" & more', "M. J. Rosé Ballantine"), ("0155", "Rites", "J Heinle")],
        [("276725", "034545104X", 0.0, 0.0), ("276726", "0155", 1.0, 5.0)],
    ),
    "bookcrossing, of late": (
        "bookcrossing",
        {
            "Ratings.csv": "User-ID,ISBN,Book-Rating\n276725,034545104X,0\n",
            "Books.csv": "ISBN,Book-Title,Book-Author,Year,Publisher\n"
            '034545104X,"Flesh, ""Tones""",M. J. Rosé,2002,Ballantine\n',
        },
        {},
        [("034545104X", 'Flesh, "Tones"', "M. J. Rosé Ballantine")],
        [("276725", "034545104X", 0.0, 0.0)],
    ),
    "lastfm-2k": (
        "lastfm",
        {
            "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\n2\t52\t13\t1238536800000\n",
            "artists.dat": 'id\tname\turl\tpictureURL\n52\t"MALICE MIZER\thttp://x\thttp://y\n',
        },
        {},
        [("52", '"MALICE MIZER', "")],
        [("2", "52", 1238536800000.0)],
    ),
    "lastfm-1k": (
        "lastfm",
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": ""
            "user_1\t2009-05-04T23:08:57Z\ta1\tDeep Dish\tt1\tFlashdance\n"
            'user_1\t2009-05-04T13:54:10Z\ta2\t坂本龍一\tt2\t"Comp (Live)\nuser_1\t2009-05-04T13:52:04Z\ta2\t坂本龍一\t\tx\n'
        },
        {},
        [("t1", "Flashdance", "Deep Dish"), ("t2", '"Comp (Live)', "坂本龍一")],
        [("user_1", "t1", seconds(2009, 5, 4, 23, 8, 57)), ("user_1", "t2", seconds(2009, 5, 4, 13, 54, 10))],
    ),
    "goodreads": (
        "goodreads",
        {
            "goodreads_interactions_poetry.json": "".join(json.dumps(row) + "\n" for row in GOODREADS),
            "goodreads_books_poetry.json": "".join(json.dumps(row) + "\n" for row in GOODREADS_BOOKS),
        },
        {},
        [("5", "Hild", "A seer."), ("6", "Ammonite", "")],
        [("u", "5", seconds(2017, 8, 25, 20, 55, 2), 3.0), ("u", "6", seconds(2017, 8, 30, 7, 0, 26), 0.0)],
    ),
}
ENCODINGS = {"u.item": "latin-1", "movies.dat": "latin-1", "BX-Books.csv": "latin-1"}


def write(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode(ENCODINGS.get(name, "utf-8")))


@pytest.mark.parametrize("case", CASES)
def test_raw_files(tmp_path, case):
    name, files, options, items, interactions = CASES[case]
    write(tmp_path, files)
    log = load_published(name, tmp_path, **options)
    assert list(zip(*(log.items[column][:] for column in ("item_id", "title", "description")))) == items
    columns = ["user_id", "item_id", "timestamp", "rating"][: len(interactions[0])]
    assert list(zip(*(log.interactions[column][:] for column in columns))) == interactions


def test_every_name_is_tested():
    assert {case[0] for case in CASES.values()} == {*PUBLISHED}


def test_the_page_on_data_names_all_of_them():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE))))
    assert {*PUBLISHED, "amazon", "amazon2014", "amazon2018", "amazon2023"} <= named


def test_movielens_10m_is_utf_8(tmp_path):
    files = CASES["ml-1m"][1]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_published("movielens", tmp_path).items["title"][0] == "Misérables, Les: (1995)"


def test_filters_name_what_there_is(tmp_path):
    write(tmp_path, CASES["taobao"][1])
    assert len(load_published("taobao", tmp_path, filters={"behavior": ["pv", "buy"]}).interactions) == 2
    with pytest.raises(ValueError, match=r"rows with \['cart'\] in column 'behavior'.*values are \['pv', 'buy'\]"):
        load_published("taobao", tmp_path, filters={"behavior": ["buy", "cart"]})
    write(tmp_path, CASES["mind"][1])
    with pytest.raises(ValueError, match="no `filters` for 'mind'"):
        load_published("mind", tmp_path, filters={"event": "click"})


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "ratings.dat").touch()
    with pytest.raises(
        FileNotFoundError, match=r"ratings.csv and movies.csv or ratings.dat and .*found \['ratings.dat"
    ):
        load_published("movielens", tmp_path)
    with pytest.raises(FileNotFoundError, match="found no such folder"):
        load_published("steam", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Expected `name` among .*'movielens'.* but found 'netflix'"):
        load_published("netflix", tmp_path)
