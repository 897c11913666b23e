#include "engine/engine_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/tests/running_engine.h"

namespace sublet {
namespace {

using nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr const char* kChat =
    R"({"model":"demo","messages":[{"role":"user","content":"Say it."}]})";

json ParseBody(const WireAnswer& answer) {
  EXPECT_EQ(answer.error, "");
  auto parsed = json::parse(answer.body, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << answer.body;
  return parsed;
}

// The JSON after each "data: ".
std::vector<json> Events(const std::string& body) {
  std::vector<json> events;
  std::size_t at = 0;
  while ((at = body.find("data: ", at)) != std::string::npos) {
    const std::size_t end = body.find("\n\n", at);
    const std::string text = body.substr(at + 6, end - at - 6);
    if (text != "[DONE]") events.push_back(json::parse(text));
    at = end;
  }
  return events;
}

std::string TextOf(const std::vector<json>& events) {
  std::string text;
  for (const json& event : events) {
    for (const json& choice : event["choices"]) {
      if (choice.contains("text")) text += choice["text"];
      if (choice.contains("delta") && choice["delta"].contains("content")) {
        text += choice["delta"]["content"];
      }
    }
  }
  return text;
}

class EngineServerTest : public ::testing::Test {
 protected:
  RunningEngine engine_{QuickEngine()};
  WireClient client_{engine_.port()};
};

TEST_F(EngineServerTest, AnswersAChat) {
  const WireAnswer answer = client_.Post("/v1/chat/completions", kChat);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("x-sim-engine"), "demo");
  const json body = ParseBody(answer);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  const json again = ParseBody(client_.Post("/v1/chat/completions", kChat));
  EXPECT_EQ(again["choices"], body["choices"]);
  EXPECT_EQ(again["usage"]["prompt_tokens"], body["usage"]["prompt_tokens"]);
  EXPECT_GT(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

TEST_F(EngineServerTest, StreamsWhatItWouldSayAtOnce) {
  const std::string whole =
      ParseBody(client_.Post("/v1/chat/completions", kChat))["choices"][0]["message"]["content"];
  const std::string ask =
      R"({"model":"demo","stream":true,"stream_options":{"include_usage":true},)"
      R"("messages":[{"role":"user","content":"Say it."}]})";
  const WireAnswer answer = client_.Post("/v1/chat/completions", ask);
  EXPECT_THAT(answer.Header("content-type"), StartsWith("text/event-stream"));
  EXPECT_THAT(answer.body, ::testing::EndsWith("data: [DONE]\n\n"));
  const std::vector<json> events = Events(answer.body);
  ASSERT_THAT(events, SizeIs(1 + 8 + 1));
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(TextOf(events), whole);
  EXPECT_EQ(events[8]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events.back()["choices"], json::array());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 8);
}

TEST_F(EngineServerTest, FindsTheAnswerOfTheTurnBefore) {
  const json first = ParseBody(client_.Post("/v1/chat/completions", kChat));
  const json messages = {{{"role", "user"}, {"content", "Say it."}},
                         first["choices"][0]["message"],
                         {{"role", "user"}, {"content", "And again, please."}}};
  const json second =
      ParseBody(client_.Post("/v1/chat/completions", json{{"messages", messages}}.dump()));
  const int turn = first["usage"]["total_tokens"];
  // All full blocks of prompt and answer; the last token was never computed on.
  EXPECT_EQ(second["usage"]["prompt_tokens_details"]["cached_tokens"], (turn - 1) / 4 * 4);
}

TEST_F(EngineServerTest, TakesPromptsInAllForms) {
  const auto choices = [&](const std::string& prompt) {
    return ParseBody(client_.Post("/v1/completions", fmt::format(R"({{"prompt":{},"n":2,)"
                                                                 R"("max_tokens":3}})",
                                                                 prompt)));
  };
  EXPECT_THAT(choices("\"Hello there\"")["choices"], SizeIs(2));
  EXPECT_THAT(choices("[5,6,7]")["choices"], SizeIs(2));
  EXPECT_THAT(choices(R"(["a","b","c"])")["choices"], SizeIs(6));
  const json lists = choices("[[1,2],[3]]");
  EXPECT_THAT(lists["choices"], SizeIs(4));
  EXPECT_EQ(lists["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(lists["usage"]["completion_tokens"], 12);
  EXPECT_EQ(lists["choices"][3]["index"], 3);
  EXPECT_EQ(lists["choices"][0]["finish_reason"], "length");
  EXPECT_NE(lists["choices"][0]["text"], lists["choices"][1]["text"]);
}

TEST_F(EngineServerTest, StopsBeforeAStopText) {
  const std::string whole = ParseBody(
      client_.Post("/v1/completions",
                   R"({"prompt":"x","max_tokens":40,"ignore_eos":true})"))["choices"][0]["text"];
  // The stop lies across two tokens.
  const std::size_t at = whole.find(' ', 20) - 1;
  const std::string stop = whole.substr(at, 4);
  for (const bool stream : {false, true}) {
    const json ask = {{"prompt", "x"},
                      {"max_tokens", 40},
                      {"ignore_eos", true},
                      {"stop", {"~", stop}},
                      {"stream", stream}};
    const WireAnswer answer = client_.Post("/v1/completions", ask.dump());
    const std::string text = stream ? TextOf(Events(answer.body))
                                    : ParseBody(answer)["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(text, whole.substr(0, whole.find(stop))) << stream;
    EXPECT_THAT(answer.body, HasSubstr(R"("finish_reason":"stop")"));
  }
  EXPECT_EQ(engine_.BlocksUsed(), 0);
}

TEST_F(EngineServerTest, EndsByItselfUnlessTold) {
  const auto reason = [&](const std::string& more) {
    const json body = ParseBody(client_.Post("/v1/completions", R"({"prompt":"x")" + more + "}"));
    return fmt::format("{} {}", body["usage"]["completion_tokens"].get<int>(),
                       body["choices"][0]["finish_reason"].get<std::string>());
  };
  EXPECT_EQ(reason(""), "8 stop");
  EXPECT_EQ(reason(R"(,"max_tokens":5)"), "5 length");
  EXPECT_EQ(reason(R"(,"max_tokens":100)"), "8 stop");
  EXPECT_EQ(reason(R"(,"max_tokens":100,"ignore_eos":true)"), "100 length");
}

TEST_F(EngineServerTest, AnswersResponsesAndEmbeddings) {
  const json whole =
      ParseBody(client_.Post("/v1/responses", R"({"model":"demo","input":"Tell me."})"));
  EXPECT_EQ(whole["status"], "completed");
  const std::string text = whole["output"][0]["content"][0]["text"];
  const WireAnswer stream = client_.Post("/v1/responses", R"({"input":"Tell me.","stream":true})");
  const std::vector<json> events = Events(stream.body);
  EXPECT_EQ(events.front()["type"], "response.created");
  EXPECT_EQ(events.back()["type"], "response.completed");
  EXPECT_EQ(events.back()["response"]["output"][0]["content"][0]["text"], text);
  std::string deltas;
  for (std::size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["sequence_number"], i);
    if (events[i]["type"] == "response.output_text.delta") deltas += events[i]["delta"];
  }
  EXPECT_EQ(deltas, text);

  const json two = ParseBody(client_.Post("/v1/embeddings", R"({"input":["a","b"]})"));
  ASSERT_THAT(two["data"], SizeIs(2));
  EXPECT_THAT(two["data"][0]["embedding"], SizeIs(16));
  EXPECT_NE(two["data"][0]["embedding"], two["data"][1]["embedding"]);
  const json packed = ParseBody(
      client_.Post("/v1/embeddings", R"({"input":"a","encoding_format":"base64","dimensions":3})"));
  EXPECT_THAT(packed["data"][0]["embedding"].get<std::string>(), SizeIs(16));
}

TEST_F(EngineServerTest, RefusesInTheShapeOfOpenAi) {
  const auto refusal = [&](const std::string& path, const std::string& body) {
    const WireAnswer answer = client_.Post(path, body);
    const json error = ParseBody(answer)["error"];
    EXPECT_EQ(error["code"], answer.status);
    EXPECT_TRUE(error["message"].is_string());
    return fmt::format("{} {}", answer.status, error["type"].get<std::string>());
  };
  EXPECT_EQ(refusal("/v1/chat/completions", R"({"model":"other","messages":[{"role":"user"}]})"),
            "404 NotFoundError");
  EXPECT_EQ(refusal("/v1/chat/completions", "{}"), "400 BadRequestError");
  EXPECT_EQ(refusal("/v1/chat/completions", "not json \xff"), "400 BadRequestError");
  EXPECT_EQ(refusal("/v1/completions", R"({"prompt":"x","max_tokens":5000})"),
            "400 BadRequestError");
  EXPECT_EQ(refusal("/v1/completions", R"({"prompt":""})"), "400 BadRequestError");
  EXPECT_EQ(refusal("/v1/completions", R"({"prompt":"x","n":0})"), "400 BadRequestError");
  EXPECT_EQ(refusal("/nothing", "{}"), "404 NotFoundError");
}

TEST_F(EngineServerTest, TokenizesAndBack) {
  const json tokens = ParseBody(client_.Post("/tokenize", R"({"prompt":"Where is it?"})"));
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["max_model_len"], 4000);
  const json text =
      ParseBody(client_.Post("/detokenize", json{{"tokens", tokens["tokens"]}}.dump()));
  EXPECT_EQ(text["prompt"], "Where is it?");
  EXPECT_EQ(client_.Post("/detokenize", R"({"tokens":[0]})").status, 400);
  // A chat has as many tokens as its answer says.
  const json chat = ParseBody(client_.Post("/tokenize", kChat));
  const json answer = ParseBody(client_.Post("/v1/chat/completions", kChat));
  EXPECT_EQ(chat["count"], answer["usage"]["prompt_tokens"]);
}

TEST_F(EngineServerTest, TellsItsMetricsAsVllmDoes) {
  client_.Post("/v1/chat/completions", kChat);
  client_.Post("/v1/chat/completions", kChat);
  const std::string text = client_.Get("/metrics").body;
  const json state = ParseBody(client_.Get("/sim/state"));
  const std::string labels = R"({model_name="demo",engine="0")";
  for (const std::string& line :
       {"vllm:num_requests_running" + labels + "} 0\n",
        "vllm:num_requests_waiting" + labels + "} 0\n",
        "vllm:kv_cache_usage_perc" + labels + "} 0\n",
        "vllm:cache_config_info" + labels + ",block_size=\"4\",num_gpu_blocks=\"1000\"",
        fmt::format("vllm:prefix_cache_queries_total{}}} {}\n", labels,
                    state["prompt_tokens"].get<int>()),
        fmt::format("vllm:prefix_cache_hits_total{}}} {}\n", labels,
                    state["cached_tokens"].get<int>()),
        "vllm:num_preemptions_total" + labels + "} 0\n",
        "vllm:time_to_first_token_seconds_count" + labels + "} 2\n",
        "vllm:time_per_output_token_seconds_count" + labels + "} 14\n",
        std::string("vllm:e2e_request_latency_seconds_bucket{le=\"+Inf\",model_name=\"demo\"")}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(EngineServerTest, AnswersTheSmallQuestions) {
  EXPECT_EQ(client_.Get("/health").status, 200);
  EXPECT_EQ(ParseBody(client_.Get("/load"))["server_load"], 0);
  EXPECT_EQ(ParseBody(client_.Get("/v1/models"))["data"][0]["id"], "demo");
  EXPECT_TRUE(ParseBody(client_.Get("/version")).contains("version"));
  client_.Post("/v1/chat/completions", kChat);
  EXPECT_GT(ParseBody(client_.Get("/sim/state"))["blocks_cached"], 0);
  EXPECT_EQ(client_.Post("/reset_prefix_cache", "").status, 200);
  EXPECT_EQ(ParseBody(client_.Get("/sim/state"))["blocks_cached"], 0);
}

TEST_F(EngineServerTest, CancelsWhatNobodyWaitsFor) {
  for (const char* stream : {"true", "false"}) {
    WireClient leaver(engine_.port());
    const std::string body =
        fmt::format(R"({{"prompt":"x","max_tokens":3000,"ignore_eos":true,"stream":{}}})", stream);
    leaver.Say(fmt::format("POST /v1/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}",
                           body.size(), body));
    if (std::string(stream) == "true") leaver.HearUntil("data: ");
    leaver.Close();
  }
  while (engine_.Counters().cancelled < 2) std::this_thread::yield();
  EXPECT_EQ(engine_.BlocksUsed(), 0);
}

TEST_F(EngineServerTest, AnswersPipelinedRequestsInOrder) {
  std::string requests;
  for (int i = 1; i <= 20; ++i) {
    const std::string body = fmt::format(R"({{"prompt":"x","max_tokens":{}}})", 1 + i % 5);
    requests += fmt::format("POST /v1/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}",
                            body.size(), body);
    requests += "GET /health HTTP/1.1\r\n\r\n";
  }
  client_.Say(requests);
  for (int i = 1; i <= 20; ++i) {
    EXPECT_EQ(ParseBody(client_.Hear())["usage"]["completion_tokens"], 1 + i % 5);
    EXPECT_EQ(client_.Hear().status, 200);
  }
}

TEST_F(EngineServerTest, TakesLargeAndChunkedBodies) {
  const std::string words(1u << 20, 'x');
  const WireAnswer large = client_.Post("/v1/embeddings", R"({"input":")" + words + "\"}");
  EXPECT_EQ(large.status, 400);  // More than the cache holds, but read whole.
  client_.Say("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"prompt\r\n");
  client_.Say("5\r\n\":\"a\"\r\n1\r\n}\r\n0\r\n\r\n");
  EXPECT_EQ(ParseBody(client_.Hear())["count"], 1);
  client_.Say("no HTTP at all\r\n\r\n");
  EXPECT_EQ(client_.Hear().status, 400);
}

TEST(EngineServer, ServesAdapters) {
  EngineServerOptions options = QuickEngine();
  options.loras = {"law", "tax"};
  RunningEngine engine(options);
  WireClient client(engine.port());
  EXPECT_THAT(ParseBody(client.Get("/v1/models"))["data"], SizeIs(3));
  const std::string ask = R"({"prompt":"the same for all of them","model":")";
  for (const char* model : {"demo", "law", "tax", "law"}) {
    const json body = ParseBody(client.Post("/v1/completions", ask + model + "\"}"));
    EXPECT_EQ(body["model"], model);
  }
  const EngineCounters counters = engine.Counters();
  EXPECT_EQ(counters.prompt_tokens, 4 * 6);
  EXPECT_EQ(counters.cached_tokens, 4);  // Only the second time for one of them.
}

TEST(EngineServer, AnswersInstantly) {
  EngineServerOptions options = QuickEngine();
  options.instant = true;
  RunningEngine engine(options);
  WireClient client(engine.port());
  for (const char* path :
       {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}) {
    EXPECT_TRUE(ParseBody(client.Post(path, kChat)).is_object()) << path;
  }
  const WireAnswer stream = client.Post(
      "/v1/chat/completions", R"({"stream":true,"stream_options":{"include_usage":true}})");
  EXPECT_EQ(stream.error, "");
  EXPECT_THAT(Events(stream.body), SizeIs(1 + 8 + 1));
  EXPECT_EQ(client.Post("/v1/completions", "{").status, 400);
  EXPECT_EQ(engine.Counters().steps, 0);
}

TEST(EngineServer, GivesBackItsPort) {
  EngineServerOptions options = QuickEngine();
  RunningEngine first(options);
  boost::asio::io_context loop;
  EngineRunner runner(loop, 1);
  options.port = first.port();
  EXPECT_EQ(EngineServer::Open(loop, runner, options).error().code, ErrorCode::kConflict);
}

}  // namespace
}  // namespace sublet
