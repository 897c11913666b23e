#include "proxy/message_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet::internal {
namespace {

using ::testing::ElementsAre;

HeadEnd::Look LookAt(std::string_view text, std::size_t bytes_max = 1024, int fields_max = 10) {
  HeadEnd end;
  return end.At(text, bytes_max, fields_max);
}

// The whole of `text` as one message; the error, or its body.
template <bool kIsRequest>
std::string Read(std::string_view text, bool bodiless = false) {
  HeadEnd end;
  if (end.At(text, 4096, 100) != HeadEnd::Look::kWhole) return "<no head>";
  MessageReader<kIsRequest> reader;
  const Status head = reader.ReadHead(text.substr(0, end.size()), bodiless);
  if (!head) return "<refused>";
  std::vector<std::string_view> pieces;
  const Result<std::size_t> used = reader.Decode(text.substr(end.size()), pieces);
  if (!used) return "<broken>";
  std::string body;
  for (const std::string_view piece : pieces) body += piece;
  return body + (reader.done() ? "" : "<more>");
}

std::string ReadRequest(std::string_view text) {
  return Read<true>(text);
}
std::string ReadAnswer(std::string_view text, bool bodiless = false) {
  return Read<false>(text, bodiless);
}

std::string WithFields(std::string_view fields, std::string_view body = "") {
  return "POST / HTTP/1.1\r\nHost: x\r\n" + std::string(fields) + "\r\n" + std::string(body);
}

TEST(HeadEnd, FindsTheEndWhereverItIsCut) {
  const std::string text = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next";
  const std::size_t whole = text.find("\r\n\r\n") + 4;
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    HeadEnd end;
    const HeadEnd::Look first = end.At(text.substr(0, cut), 1024, 10);
    EXPECT_EQ(first, cut < whole ? HeadEnd::Look::kMore : HeadEnd::Look::kWhole) << cut;
    if (first == HeadEnd::Look::kMore) {
      EXPECT_EQ(end.At(text, 1024, 10), HeadEnd::Look::kWhole) << cut;
    }
    EXPECT_EQ(end.size(), whole);
  }
}

TEST(HeadEnd, RefusesLinesThatOtherReadersEndElsewhere) {
  EXPECT_EQ(LookAt("GET / HTTP/1.1\nHost: x\r\n\r\n"), HeadEnd::Look::kBad);
  EXPECT_EQ(LookAt("GET / HTTP/1.1\r\nHost: x\n\r\n"), HeadEnd::Look::kBad);
  EXPECT_EQ(LookAt("GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n"), HeadEnd::Look::kBad);
  EXPECT_EQ(LookAt("GET / HTTP/1.1\r\nA: 1\r\n\tfolded\r\n\r\n"), HeadEnd::Look::kBad);
  EXPECT_EQ(LookAt("GET / HTTP/1.1\r\n folded: 1\r\n\r\n"), HeadEnd::Look::kBad);
  EXPECT_EQ(LookAt("\r\n\r\n"), HeadEnd::Look::kBad);
}

TEST(HeadEnd, HasLimits) {
  const std::string text = "GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\n\r\n";
  EXPECT_EQ(LookAt(text, text.size()), HeadEnd::Look::kWhole);
  EXPECT_EQ(LookAt(text, text.size() - 1), HeadEnd::Look::kTooLong);
  EXPECT_EQ(LookAt(text, 1024, 2), HeadEnd::Look::kWhole);
  EXPECT_EQ(LookAt(text, 1024, 1), HeadEnd::Look::kTooLong);
  EXPECT_EQ(LookAt(std::string(2000, 'x')), HeadEnd::Look::kTooLong);
}

TEST(MessageReader, ReadsARequest) {
  const std::string text =
      "POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nX-One:  two \r\nContent-Length: 3\r\n\r\nabc";
  const std::size_t head_size = text.find("abc");
  MessageReader<true> reader;
  ASSERT_TRUE(reader.ReadHead(std::string_view(text).substr(0, head_size)));
  EXPECT_EQ(reader.head().method, "POST");
  EXPECT_EQ(reader.head().target, "/v1/x?a=b");
  EXPECT_EQ(reader.head().minor_version, 1);
  ASSERT_EQ(reader.head().fields.size(), 3u);
  EXPECT_EQ(reader.head().fields[1].name, "X-One");
  EXPECT_EQ(reader.head().fields[1].value, "two");
  EXPECT_EQ(reader.head().framing, BodyFraming::kLength);
  EXPECT_EQ(reader.head().length, 3u);
  EXPECT_TRUE(reader.head().keep_alive);
}

TEST(MessageReader, IsUsedAgain) {
  MessageReader<true> reader;
  ASSERT_TRUE(reader.ReadHead("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  EXPECT_FALSE(reader.head().keep_alive);
  EXPECT_FALSE(reader.ReadHead("GET /b HTTP/1.1\r\nHost : x\r\n\r\n"));
  ASSERT_TRUE(reader.ReadHead("GET /c HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_TRUE(reader.head().keep_alive);
  EXPECT_EQ(reader.head().target, "/c");
  EXPECT_EQ(reader.head().fields.size(), 1u);
}

// Each of these has been read in two ways by two servers in a row.
TEST(MessageReader, RefusesRequestsOfTwoMeanings) {
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
            "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n")),
            "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 3\r\nContent-Length: 4\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 3\r\nContent-Length: 3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 3, 3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: +3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: -3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 0x3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: \r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length: 99999999999999999999\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Content-Length : 3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: gzip\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: gzip, chunked\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: chunked, chunked\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n")),
            "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: xchunked\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: \"chunked\"\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Transfer-Encoding: \x0b"
                                   "chunked\r\n")),
            "<refused>");
  EXPECT_EQ(ReadRequest("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("Host: y\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest("GET / HTTP/1.1\r\nA: b\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields(std::string("A: b\0c\r\n", 8))), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("A: b\rContent-Length: 3\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields(": no name\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest(WithFields("no colon\r\n")), "<refused>");
  EXPECT_EQ(ReadRequest("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadRequest("GET / HTTP/1.1 \r\nHost: x\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadRequest("GET  / HTTP/1.1\r\nHost: x\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadRequest("GET /\r\nHost: x\r\n\r\n"), "<refused>");
}

TEST(MessageReader, ReadsChunksWhereverTheyAreCut) {
  const std::string head = WithFields("Transfer-Encoding: Chunked\r\n");
  const std::string body = "3\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n";
  for (std::size_t cut = 0; cut <= body.size(); ++cut) {
    MessageReader<true> reader;
    ASSERT_TRUE(reader.ReadHead(head));
    std::string in;
    std::string out;
    for (const std::string& part : {body.substr(0, cut), body.substr(cut)}) {
      in += part;
      std::vector<std::string_view> pieces;
      const Result<std::size_t> used = reader.Decode(in, pieces);
      ASSERT_TRUE(used) << cut << ": " << used.error().message;
      for (const std::string_view piece : pieces) out += piece;
      in.erase(0, *used);
    }
    EXPECT_EQ(out, "abc0123456789") << cut;
    EXPECT_TRUE(reader.done()) << cut;
    EXPECT_EQ(in, "") << cut;
  }
}

TEST(MessageReader, ReadsChunksThatComeByteByByte) {
  MessageReader<true> reader;
  ASSERT_TRUE(reader.ReadHead(WithFields("Transfer-Encoding: chunked\r\n")));
  std::string in;
  std::string out;
  for (const char c : std::string_view("1\r\na\r\n0\r\n\r\n")) {
    in += c;
    std::vector<std::string_view> pieces;
    const Result<std::size_t> used = reader.Decode(in, pieces);
    ASSERT_TRUE(used);
    for (const std::string_view piece : pieces) out += piece;
    in.erase(0, *used);
  }
  EXPECT_EQ(out, "a");
  EXPECT_TRUE(reader.done());
  EXPECT_EQ(in, "");
}

TEST(MessageReader, RefusesBrokenChunks) {
  const auto chunked = [](std::string_view body) {
    return ReadRequest(WithFields("Transfer-Encoding: chunked\r\n", body));
  };
  EXPECT_EQ(chunked("3\r\nabc\r\n0\r\n\r\n"), "abc");
  EXPECT_EQ(chunked("3;ext=1\r\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("3 \r\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("0x3\r\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("-3\r\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("3\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("3\r\nabcX\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("3\r\nabc\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("10000000000000000\r\nabc"), "<broken>");
  EXPECT_EQ(chunked("\r\nabc\r\n0\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("0\r\nContent-Length: 5\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked("0\r\nX-Trailer : 5\r\n\r\n"), "<broken>");
  EXPECT_EQ(chunked(std::string(9000, '1')), "<broken>");
  EXPECT_EQ(chunked("0\r\nX-Long: " + std::string(9000, '1')), "<broken>");
}

TEST(MessageReader, ReadsAnswersInEachFraming) {
  EXPECT_EQ(ReadAnswer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX"), "ok");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n"),
            "ok<more>");
  EXPECT_EQ(ReadAnswer("HTTP/1.0 200 OK\r\n\r\nuntil the end"), "until the end<more>");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 204 No Content\r\n\r\n"), "");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), "");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true), "");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 200\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "<refused>");
  EXPECT_EQ(ReadAnswer("ICY 200 OK\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 002 OK\r\n\r\n"), "<refused>");
  EXPECT_EQ(ReadAnswer("HTTP/1.1 999 OK\r\n\r\n"), "<refused>");
}

TEST(MessageReader, KnowsWhenAnAnswersConnectionStays) {
  const auto stays = [](std::string_view text, bool bodiless = false) {
    MessageReader<false> reader;
    return reader.ReadHead(text, bodiless) && reader.head().keep_alive;
  };
  EXPECT_TRUE(stays("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_FALSE(stays("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"));
  EXPECT_FALSE(stays("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_TRUE(stays("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"));
  EXPECT_FALSE(stays("HTTP/1.1 200 OK\r\n\r\n"));
  EXPECT_TRUE(stays("HTTP/1.1 200 OK\r\n\r\n", true));
}

TEST(MessageReader, EndsWithTheConnectionOnlyWhereThatIsTheFraming) {
  MessageReader<false> reader;
  std::vector<std::string_view> pieces;
  ASSERT_TRUE(reader.ReadHead("HTTP/1.1 200 OK\r\n\r\n"));
  EXPECT_TRUE(reader.EndOfInput());
  ASSERT_TRUE(reader.ReadHead("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_FALSE(reader.EndOfInput());
  ASSERT_TRUE(reader.ReadHead("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
  EXPECT_FALSE(reader.EndOfInput());
}

TEST(PlainTarget, IsAPathWithoutTricks) {
  for (const char* good : {"/", "/v1/chat/completions", "/a?b=/../c", "/a/...", "/.well-known/x",
                           "/a%20b", "/a?x=%2e%2e", "//", "/a/..b"}) {
    EXPECT_TRUE(IsPlainTarget(good)) << good;
  }
  for (const char* bad : {"", "*", "v1", "http://x/", "/..", "/a/../b", "/a/.", "/./a", "/a/%2e%2E",
                          "/a/.%2e/b", "/%2e", "/a#b", "/a\\b", "/a\x80", "/a\x7f", "/a b"}) {
    EXPECT_FALSE(IsPlainTarget(bad)) << bad;
  }
}

TEST(ListHas, LooksAtWholeTokens) {
  EXPECT_TRUE(ListHas("close", "Close"));
  EXPECT_TRUE(ListHas("keep-alive, X-A ,b", "x-a"));
  EXPECT_FALSE(ListHas("keep-alive, X-AB", "x-a"));
  EXPECT_FALSE(ListHas("", "x"));
}

}  // namespace
}  // namespace sublet::internal
