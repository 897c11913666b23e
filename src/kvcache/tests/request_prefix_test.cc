#include "kvcache/request_prefix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

Result<RequestPrefix> TryScan(RequestKind kind, const std::string& body,
                              const ScanOptions& options = {}) {
  static auto* const kScanner = new RequestScanner;  // Used again, as a connection's would be.
  return kScanner->Scan(kind, body, options);
}

RequestPrefix Scan(RequestKind kind, const std::string& body, const ScanOptions& options = {}) {
  Result<RequestPrefix> prefix = TryScan(kind, body, options);
  EXPECT_TRUE(prefix.has_value()) << prefix.error().message << "\n" << body.substr(0, 300);
  return prefix ? *prefix : RequestPrefix();
}

RequestPrefix Chat(const std::string& members) {
  return Scan(RequestKind::kChat, "{" + members + "}");
}

std::string Long(char letter, std::size_t bytes = 2 * kTextBlockBytes) {
  return std::string(bytes, letter);
}

// A last message that fills blocks, so that whatever stands before it is in the chain.
std::string WithTail(const std::string& messages) {
  return R"("messages":[)" + messages + R"(,{"role":"user","content":")" + Long('z') + "\"}]";
}

void ExpectRefused(RequestKind kind, const std::string& body, const std::string& why) {
  const Result<RequestPrefix> prefix = TryScan(kind, body);
  ASSERT_FALSE(prefix.has_value()) << body.substr(0, 300);
  EXPECT_EQ(prefix.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(prefix.error().message, HasSubstr(why)) << body.substr(0, 300);
}

TEST(RequestKind, IsOfThePathsEnd) {
  EXPECT_EQ(RequestKindOf("/v1/chat/completions"), RequestKind::kChat);
  EXPECT_EQ(RequestKindOf("/openai/v1/chat/completions/?x=/v1/completions"), RequestKind::kChat);
  EXPECT_EQ(RequestKindOf("/v1/completions"), RequestKind::kCompletion);
  EXPECT_EQ(RequestKindOf("/v1/responses"), RequestKind::kResponses);
  EXPECT_EQ(RequestKindOf("/v1/embeddings"), RequestKind::kEmbedding);
  EXPECT_EQ(RequestKindOf("/v1/models"), RequestKind::kOther);
  EXPECT_EQ(RequestKindOf("/v1/responses/resp_1"), RequestKind::kOther);
  EXPECT_EQ(RequestKindOf("completions"), RequestKind::kOther);
  EXPECT_EQ(RequestKindOf(""), RequestKind::kOther);
}

TEST(RequestPrefix, TellsWhatStandsBesideThePrompt) {
  const RequestPrefix prefix =
      Chat(R"("messages":[{"role":"user","content":"hi"}],"n":2,"stream":true,"max_tokens":7,)"
           R"("cache_salt":"pepper","user":"u","session_id":"s","priority":-3,"model":"llama")");
  EXPECT_TRUE(prefix.known);
  EXPECT_EQ(prefix.model, "llama");
  EXPECT_EQ(prefix.salt, "pepper");
  EXPECT_EQ(prefix.session, "s");
  EXPECT_TRUE(prefix.stream);
  EXPECT_EQ(prefix.choices, 2);
  EXPECT_EQ(prefix.output_tokens_max, 7);
  EXPECT_EQ(prefix.priority, -3);
  EXPECT_THAT(prefix.text, IsEmpty());  // Not yet a block.
  EXPECT_GT(prefix.text_bytes, 0u);
}

TEST(RequestPrefix, AbsentIsAbsent) {
  const RequestPrefix prefix = Chat(R"("messages":[],"model":null,"max_tokens":null,"n":null)");
  EXPECT_TRUE(prefix.known);
  EXPECT_EQ(prefix.model, "");
  EXPECT_EQ(prefix.output_tokens_max, std::nullopt);
  EXPECT_EQ(prefix.priority, std::nullopt);
  EXPECT_EQ(prefix.choices, 1);
  EXPECT_FALSE(prefix.stream);
  EXPECT_EQ(prefix.PromptTokens(), 0u);
}

TEST(RequestPrefix, SessionsHaveAnOrder) {
  EXPECT_EQ(Chat(R"("messages":[],"user":"u","prompt_cache_key":"k")").session, "k");
  EXPECT_EQ(Chat(R"("prompt_cache_key":"k","session_id":"s","messages":[])").session, "s");
  EXPECT_EQ(Chat(R"("messages":[],"user":"u")").session, "u");
}

TEST(RequestPrefix, NumbersAreNeverTooLarge) {
  EXPECT_EQ(Chat(R"("messages":[],"max_tokens":1e3)").output_tokens_max, 1000);
  EXPECT_EQ(Chat(R"("messages":[],"max_completion_tokens":7.0)").output_tokens_max, 7);
  EXPECT_EQ(Chat(R"("messages":[],"max_tokens":99999999999999999999999)").output_tokens_max,
            2147483647);
  EXPECT_EQ(Chat(R"("messages":[],"max_tokens":1e999)").output_tokens_max, std::nullopt);
  EXPECT_EQ(Chat(R"("messages":[],"max_tokens":-1)").output_tokens_max, std::nullopt);
  EXPECT_EQ(Chat(R"("messages":[],"max_tokens":"7")").output_tokens_max, std::nullopt);
  EXPECT_EQ(Chat(R"("messages":[],"n":1000000000000)").choices, kRequestChoicesMax);
  EXPECT_EQ(Chat(R"("messages":[],"n":-5)").choices, 1);
  ExpectRefused(RequestKind::kChat, R"({"messages":[],"max_tokens":012})", "neither a number");
  ExpectRefused(RequestKind::kChat, R"({"messages":[],"max_tokens":1.})", "neither a number");
}

TEST(RequestPrefix, OursAndTheRequestsSaltDontMix) {
  const std::string body = R"({"messages":[],"cache_salt":"b"})";
  const std::string without = R"({"messages":[]})";
  EXPECT_EQ(Scan(RequestKind::kChat, body, {.salt = "a"}).salt,
            "a\xFF"
            "b");
  EXPECT_EQ(Scan(RequestKind::kChat, body).salt, "b");
  EXPECT_NE(Scan(RequestKind::kChat, without, {.salt = "b"}).salt, "b");
}

TEST(RequestPrefix, AChainIsOfAModelASaltAndATemplate) {
  const std::string messages = WithTail(R"({"role":"system","content":"x"})");
  const RequestPrefix plain = Chat(messages);
  ASSERT_THAT(plain.text, SizeIs(2));
  for (const char* more :
       {R"("model":"m")", R"("cache_salt":"s")", R"("chat_template":"t")",
        R"("chat_template_kwargs":{"thinking":true})", R"("reasoning_effort":"low")"}) {
    const RequestPrefix other = Chat(messages + "," + more);
    EXPECT_NE(other.text[0], plain.text[0]) << more;
    EXPECT_NE(other.text[1], plain.text[1]) << more;
    EXPECT_EQ(Chat(more + ("," + messages)).text, other.text) << "in front";
  }
  EXPECT_EQ(Chat(messages + R"(,"temperature":0.5,"seed":1)").text, plain.text);
}

TEST(RequestPrefix, WhatFollowsLeavesTheChainInFrontAsItIs) {
  const std::string first = R"({"role":"user","content":")" + Long('a', 3000) + "\"}";
  const RequestPrefix one = Chat(R"("messages":[)" + first + "]");
  const RequestPrefix two =
      Chat(R"("messages":[)" + first + R"(,{"role":"assistant","content":")" + Long('b') + "\"}]");
  ASSERT_GE(one.text.size(), 11u);
  ASSERT_GT(two.text.size(), one.text.size());
  EXPECT_TRUE(std::equal(one.text.begin(), one.text.end(), two.text.begin()));
  EXPECT_EQ(two.text.size(), two.text_bytes / kTextBlockBytes);
  EXPECT_EQ(two.PromptTokens(), (two.text_bytes + 3) / 4);
}

TEST(RequestPrefix, FormDoesNotCount) {
  const RequestPrefix plain = Chat(
      R"("model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"a":1}}}],)" +
      WithTail("{\"role\":\"user\",\"content\":\"\xC3\xA9"
               "A/\"}"));
  const RequestPrefix other =
      Chat(" \n" +
           WithTail("{\t\"\\u0063ontent\":[{\"text\":\"\\u00E9\\u0041\\/\",\"type\":\"text\"}],"
                    "\"r\\u006fle\" : \"us\\u0065r\"}") +
           R"( , "tools":[ {"function":{"parameters":{"a" : 1},"name":"f"},"type":"function"} ])"
           R"(,"\u006dodel":"m" )");
  EXPECT_EQ(plain.text, other.text);
  EXPECT_EQ(plain.text_bytes, other.text_bytes);
  EXPECT_EQ(other.model, "m");
  EXPECT_THAT(plain.text, Not(IsEmpty()));
}

TEST(RequestPrefix, AToolsParametersKeepTheirOrder) {
  const auto tool = [](const std::string& parameters) {
    return Chat(R"("tools":[{"function":{"parameters":)" + parameters + "}}]," +
                WithTail(R"({"role":"user"})"));
  };
  EXPECT_EQ(tool(R"({"a":1,"b":2})").text, tool(R"({"a": 1, "\u0062":2})").text);
  EXPECT_NE(tool(R"({"a":1,"b":2})").text, tool(R"({"b":2,"a":1})").text);
  EXPECT_NE(tool(R"({"a":1})").text, tool(R"({"a":1.0})").text);
}

TEST(RequestPrefix, DifferentPromptsHaveDifferentChains) {
  const std::vector<std::string> messages = {
      R"({"role":"user","content":"ab"})",
      R"({"role":"system","content":"ab"})",
      R"({"role":"user","content":"abc"})",
      R"({"role":"user","content":"a"},{"role":"user","content":"b"})",
      R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]})",
      R"({"role":"user","name":"ab"})",
      R"({"role":"user","content":""})",
      R"({"role":"user"})",
      R"({})",
      R"({},{})",
      R"({"role":"tool","tool_call_id":"1","content":"ab"})",
      R"({"role":"tool","tool_call_id":"2","content":"ab"})",
      R"({"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]})",
      R"({"role":"assistant","tool_calls":[{"id":"1","function":{"name":"g","arguments":"{}"}}]})",
      R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,AAAA"}}]})",
      R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,AAAB"}}]})",
      R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/1.png"}}]})",
      R"({"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]})",
      R"({"role":"user","content":[{"type":"strange","value":1}]})",
      R"({"role":"user","content":5})",
      R"(5)",
      R"("5")",
  };
  std::vector<std::vector<BlockHash>> chains;
  for (const std::string& message : messages) {
    const RequestPrefix prefix = Chat(WithTail(message));
    ASSERT_THAT(prefix.text, Not(IsEmpty())) << message;
    for (std::size_t i = 0; i < chains.size(); ++i) {
      EXPECT_NE(prefix.text[0], chains[i][0]) << message << "\n" << messages[i];
    }
    chains.push_back(prefix.text);
  }
}

TEST(RequestPrefix, ImagesCountAsTokensAndNotAsText) {
  const std::string image =
      R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"data:;base64,)" +
      Long('A', 100'000) + R"("}},{"type":"text","text":"what is it?"}]})";
  const RequestPrefix prefix = Chat(R"("messages":[)" + image + "]");
  EXPECT_EQ(prefix.media_items, 1);
  EXPECT_LT(prefix.text_bytes, 100u);
  EXPECT_GE(prefix.PromptTokens(), kMediaTokensAssumed);
  const std::string reordered = WithTail(
      R"({"content":[{"image_url":{"detail":"low","url":"u"},"type":"image_url"}],"role":"user"})");
  EXPECT_EQ(Chat(reordered).text,
            Chat(WithTail(R"({"role":"user","content":[{"type":"image_url","image_url":)"
                          R"({"url":"u","detail":"low"}}]})"))
                .text);
}

TEST(RequestPrefix, AnObjectOfManyFieldsIsTakenAsItIsWritten) {
  const auto message = [](const std::string& field) {
    std::string text = "{";
    for (char c = 'a'; c <= 'z'; ++c) text += std::string("\"") + c + "\":[{}],";
    return Chat(WithTail(text + field + "}")).text;
  };
  EXPECT_EQ(message(R"("role":"user")"), message(R"( "role" : "\u0075ser" )"));
  EXPECT_NE(message(R"("role":"user")"), message(R"("role":"system")"));
  std::string tool = R"("tools":[{)";
  for (char c = 'a'; c <= 'z'; ++c) tool += std::string("\"") + c + "\":1,";
  const std::string messages = WithTail(R"({"role":"user"})");
  EXPECT_NE(Chat(tool + R"("x":1}],)" + messages).text, Chat(tool + R"("x":2}],)" + messages).text);
}

TEST(RequestPrefix, ToolsAreAnExtraSectionInFront) {
  const std::string tools = R"("tools":[{"function":{"name":"f"}}])";
  const std::string messages = WithTail(R"({"role":"user","content":"x"})");
  const RequestPrefix with = Chat(tools + "," + messages);
  const RequestPrefix without = Chat(messages);
  EXPECT_EQ(with.text.size(), without.text.size() + 1);
  EXPECT_EQ(with.text_bytes, without.text_bytes + kTextBlockBytes);
  EXPECT_NE(with.text[1], without.text[0]);  // A chain stands for all in front of it.
}

TEST(RequestPrefix, CompletionsTakeTextOrTokens) {
  const auto prompt = [](const std::string& value) {
    return Scan(RequestKind::kCompletion, R"({"prompt":)" + value + R"(,"n":2})");
  };
  EXPECT_THAT(prompt("\"" + Long('a') + "\"").text, SizeIs(2));
  EXPECT_THAT(prompt("[1, 2 ,3,4294967295]").token_ids, ElementsAre(1, 2, 3, 4294967295u));
  EXPECT_THAT(prompt("[1e2,7.0]").token_ids, ElementsAre(100, 7));
  EXPECT_EQ(prompt("[1,2,3]").PromptTokens(), 3u);
  EXPECT_EQ(prompt("[1,2,3]").choices, 2);
  for (const char* strange : {"null", "5", "{}", "[]", "[null]", "[1,\"a\"]", "[\"a\",1]", "[-1]",
                              "[4294967296]", "[1.5]", "[[1],2]", "[[\"a\"]]", "[1e999]"}) {
    const RequestPrefix prefix = prompt(strange);
    EXPECT_FALSE(prefix.known) << strange;
    EXPECT_THAT(prefix.token_ids, IsEmpty()) << strange;
    EXPECT_EQ(prefix.choices, 2) << strange;
  }
}

TEST(RequestPrefix, TheFirstOfABatchDecidesAndTheOthersAreWork) {
  const std::string a = "\"" + Long('a') + "\"";
  const std::string b = "\"" + Long('b') + "\"";
  const RequestPrefix one = Scan(RequestKind::kCompletion, R"({"prompt":)" + a + "}");
  const RequestPrefix two =
      Scan(RequestKind::kCompletion, R"({"prompt":[)" + a + "," + b + R"(],"n":3})");
  EXPECT_EQ(one.text, two.text);
  EXPECT_EQ(two.prompts, 2);
  EXPECT_EQ(two.choices, 6);
  EXPECT_NEAR(static_cast<double>(two.other_tokens), 128, 1);
  const RequestPrefix ids = Scan(RequestKind::kEmbedding, R"({"input":[[1,2],[3,4,5],[6]]})");
  EXPECT_THAT(ids.token_ids, ElementsAre(1, 2));
  EXPECT_EQ(ids.prompts, 3);
  EXPECT_EQ(ids.other_tokens, 4u);
}

TEST(RequestPrefix, ResponsesTakeTextOrItems) {
  const auto input = [](const std::string& members) {
    return Scan(RequestKind::kResponses, "{" + members + "}");
  };
  const std::string text = Long('a');
  const RequestPrefix plain = input(R"("input":")" + text + R"(","max_output_tokens":5)");
  EXPECT_THAT(plain.text, SizeIs(2));
  EXPECT_EQ(plain.output_tokens_max, 5);
  EXPECT_EQ(input(R"("input":[{"role":"user","content":[{"type":"input_text","text":")" + text +
                  R"("}]}])")
                .text,
            plain.text);
  const RequestPrefix instructed = input(R"("input":")" + text + R"(","instructions":"be brief")");
  EXPECT_EQ(instructed.text.size(), plain.text.size() + 1);
  const auto call = [&](const std::string& id, const std::string& output) {
    return input(R"("input":[{"id":")" + id +
                 R"(","type":"function_call_output","call_id":"c","output":")" + output +
                 R"("},{"role":"user","content":")" + text + "\"}]");
  };
  EXPECT_EQ(call("1", "x").text, call("2", "x").text);
  EXPECT_NE(call("1", "x").text, call("1", "y").text);
}

TEST(RequestPrefix, EmbeddingsTakeMessagesToo) {
  EXPECT_TRUE(Scan(RequestKind::kEmbedding, R"({"messages":[{"content":"x"}]})").known);
  EXPECT_FALSE(Scan(RequestKind::kEmbedding, R"({"messages":[],"input":"x"})").known);
}

TEST(RequestPrefix, WhatIsNotUnderstoodIsNotKnown) {
  for (const char* body : {"{}", "[]", "[1]", "5", "\"x\"", R"({"messages":"x"})",
                           R"({"messages":{}})", R"({"prompt":"x"})"}) {
    const RequestPrefix prefix = Scan(RequestKind::kChat, body);
    EXPECT_FALSE(prefix.known) << body;
    EXPECT_THAT(prefix.text, IsEmpty());
  }
  EXPECT_FALSE(Scan(RequestKind::kOther, "no JSON at all").known);
}

TEST(RequestPrefix, WhatIsNotJsonIsRefused) {
  for (const char* body : {"",
                           " ",
                           "{",
                           "}",
                           R"({"messages":[)",
                           R"({"messages":[}})",
                           R"({"messages":[{"role":"u"})",
                           R"({"messages":[]]})",
                           R"({"messages":[],})",
                           R"({"messages":[]}})",
                           R"({"messages":[]} x)",
                           R"({"messages":[]}{"messages":[]})",
                           R"({"a":[},"messages":[]})",
                           R"({"a":{],"messages":[]})",
                           R"({"a":tru,"messages":[]})",
                           R"({"a":1 2,"messages":[]})",
                           R"({"a","messages":[]})",
                           R"({"messages":["\x"]})",
                           R"({"messages":["\u12g4"]})",
                           R"({"a":"\u12","messages":[]})",
                           "{\"messages\":[\"\n\"]}",
                           "{'messages':[]}",
                           R"({messages:[]})",
                           R"({"messages":["a" "b"]})",
                           R"({"messages":[{"role":"user" "content":"x"}]})",
                           R"({"messages":[{"x":[1,}]})",
                           R"({"a":nul,"messages":[]})",
                           R"({"a":01})",
                           R"({"a":-})",
                           R"({"a":NaN})",
                           "\xEF\xBB\xBF{}"}) {
    ExpectRefused(RequestKind::kChat, body, "the body is refused");
  }
  ExpectRefused(RequestKind::kChat, "{\"messages\":[\"\xFF\"]}", "UTF-8");
  ExpectRefused(RequestKind::kChat, "{\"messages\":[\"\xED\xA0\x80\"]}", "UTF-8");
  ExpectRefused(RequestKind::kChat, std::string("{\"messages\":[]}\0", 16), "");
}

TEST(RequestPrefix, AKeyThatIsReadMayNotStandTwice) {
  for (const char* body : {
           R"({"model":"a","model":"b","messages":[]})",
           R"({"model":"a","\u006dodel":"b","messages":[]})",
           R"({"messages":[],"messages":[]})",
           R"({"messages":[{"role":"user","content":"a","content":"b"}]})",
           R"({"messages":[{"role":"user","role":"system"}]})",
           R"({"messages":[{"content":[{"type":"text","text":"a","text":"b"}]}]})",
           R"({"tools":[{"function":{"name":"a","name":"b"}}],"messages":[]})",
       }) {
    ExpectRefused(RequestKind::kChat, body, "a key twice");
  }
  // Where no key is read by us, both are in the chain.
  Chat(R"("messages":[],"metadata":{"a":1,"a":2},"x":1,"x":2)");
}

TEST(RequestPrefix, DeepNestingIsRefused) {
  const auto nested = [](int levels) {
    return R"({"messages":[],"x":)" + std::string(levels, '[') + std::string(levels, ']') + "}";
  };
  EXPECT_TRUE(Scan(RequestKind::kChat, nested(kRequestDepthMax - 1)).known);
  ExpectRefused(RequestKind::kChat, nested(kRequestDepthMax), "nested too deeply");
  ExpectRefused(RequestKind::kChat, nested(1'000'000), "nested too deeply");
  std::string objects = R"({"messages":[{"tool_calls":)";
  for (int i = 0; i < 1000; ++i) objects += R"([{"a":)";
  ExpectRefused(RequestKind::kChat, objects, "");
}

TEST(RequestPrefix, NamesHaveALengthAndAreText) {
  EXPECT_EQ(
      Chat(R"("messages":[],"model":")" + Long('m', kRequestNameBytesMax) + "\"").model.size(),
      kRequestNameBytesMax);
  ExpectRefused(RequestKind::kChat, R"({"model":")" + Long('m', kRequestNameBytesMax + 1) + "\"}",
                "4096 bytes");
  ExpectRefused(RequestKind::kChat, R"({"user":")" + Long('m', 1 << 20) + "\"}", "4096 bytes");
  ExpectRefused(RequestKind::kChat, R"({"model":"\ud800"})", "no text");
  EXPECT_EQ(Chat(R"("messages":[],"model":"\ud83d\ude00")").model, "\xF0\x9F\x98\x80");
}

TEST(RequestPrefix, ALoneSurrogateInAPromptIsKept) {
  const auto with = [](const std::string& text) {
    return Chat(WithTail(R"({"role":"user","content":")" + text + "\"}")).text;
  };
  EXPECT_NE(with("\\ud83d"), with("\\ud83e"));
  EXPECT_NE(with("\\ud83d"), with(""));
  EXPECT_EQ(with("\\uD83D\\uDE00"), with("\xF0\x9F\x98\x80"));
  EXPECT_NE(with("\\uDE00\\uD83D"), with("\xF0\x9F\x98\x80"));
}

TEST(RequestPrefix, ErrorsDontQuoteThePrompt) {
  const Result<RequestPrefix> prefix =
      TryScan(RequestKind::kChat, R"({"messages":[{"content":"secret \q"}]})");
  ASSERT_FALSE(prefix.has_value());
  EXPECT_THAT(prefix.error().message, Not(HasSubstr("secret")));
}

// Bodies made to cost much. A step that is quadratic in any of these takes hours.
TEST(RequestPrefix, TheLargestBodiesAreBounded) {
  const auto fill = [](std::string head, const std::string& unit, const std::string& tail,
                       std::size_t bytes = kRequestBytesMax / 16) {
    head.reserve(bytes + kScanPadding);
    while (head.size() + unit.size() + tail.size() <= bytes) head += unit;
    return head + tail;
  };
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Scan(RequestKind::kChat,
                   fill(R"({"messages":[{"content":")", "abcdefgh\\n", "\"}]}", kRequestBytesMax))
                  .known);
  EXPECT_TRUE(Scan(RequestKind::kChat, fill(R"({"messages":[{})", ",{}", "]}")).known);
  EXPECT_TRUE(
      Scan(RequestKind::kChat, fill(R"({"messages":[],"x":{"a":1)", R"(,"\n":1)", "}}")).known);
  EXPECT_TRUE(Scan(RequestKind::kChat, fill(R"({"messages":[])", R"(,"\n":1)", "}")).known);
  EXPECT_TRUE(Scan(RequestKind::kCompletion, fill(R"({"prompt":[1)", ",1", "]}")).known);
  EXPECT_TRUE(
      Scan(RequestKind::kChat,
           fill(R"({"messages":[{"tool_calls":[{"p":0,"o":0,"n":0,"m":0,"l":0,"k":0,"j":0,"a":[1)",
                ",1", R"(],"b":[],"c":[],"d":[],"e":[],"f":[],"g":[],"h":[]}]}]})"))
          .known);
  ExpectRefused(RequestKind::kChat, fill("{\"a\":", "[", "", kRequestBytesMax), "");
  ExpectRefused(RequestKind::kChat, std::string(kRequestBytesMax + 1, ' '), "64 MiB");
  // Some seconds under a sanitizer on a busy machine.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::minutes(3));
}

}  // namespace
}  // namespace sublet
