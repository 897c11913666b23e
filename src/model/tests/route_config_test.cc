#include "model/route_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kHead = "version: sublet.route/v1\n";

Result<RouteConfig> Parsed(const std::string& rest) {
  return ParseRouteConfig(kHead + rest, "route.yaml");
}

std::string Wrong(const std::string& rest) {
  const Result<RouteConfig> config = Parsed(rest);
  if (config) return "";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalid);
  return config.error().message + " | " + config.error().hint;
}

TEST(RouteConfig, OfTwoUrlsIsWhole) {
  const Result<RouteConfig> config = Parsed(R"(
replicas:
  - url: http://127.0.0.1:8001
  - url: http://127.0.0.1:8002/
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->listen.address, "127.0.0.1");
  EXPECT_EQ(config->listen.port, 8080);
  EXPECT_EQ(config->policy, "cost");
  ASSERT_EQ(config->replicas.size(), 2u);
  EXPECT_EQ(config->replicas[0].spec.name, "127.0.0.1:8001");
  EXPECT_EQ(config->replicas[1].spec.url, "http://127.0.0.1:8002");
  EXPECT_FALSE(config->replicas[0].simulate);
}

TEST(RouteConfig, OfTheVersionAloneIsTheDefault) {
  const Result<RouteConfig> config = Parsed("");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(*config, RouteConfig{});
}

TEST(RouteConfig, ReadsAReplicaWhole) {
  const Result<RouteConfig> config = Parsed(R"(
replicas:
  - name: chat/0
    url: https://gpu1:8443/llm
    models: [llama, llama-lora]
    tenant: shop
    share: {gpu: GPU-1, sm_percent: 25, prefill_tokens_per_second: 8000, decode_step_ms: 12,
            kv_blocks: 1600, kv_block_tokens: 16}
    kv_events: {endpoint: "tcp://gpu1:5557", replay_endpoint: "tcp://gpu1:5558", topic: kv@,
                ranks: 2}
    in_flight_max: 64
)");
  ASSERT_TRUE(config) << config.error().message;
  const ReplicaSpec& spec = config->replicas.at(0).spec;
  EXPECT_EQ(spec.name, "chat/0");
  EXPECT_EQ(spec.url, "https://gpu1:8443/llm");
  EXPECT_THAT(spec.models, ElementsAre("llama", "llama-lora"));
  EXPECT_EQ(spec.tenant, "shop");
  const ReplicaShare share{.gpu = "GPU-1",
                           .sm_percent = 25,
                           .prefill_tokens_per_second = 8000,
                           .decode_step_ms = 12,
                           .kv_blocks = 1600,
                           .kv_block_tokens = 16};
  EXPECT_EQ(spec.share, share);
  const KvEventSource events{.endpoint = "tcp://gpu1:5557",
                             .replay_endpoint = "tcp://gpu1:5558",
                             .topic = "kv@",
                             .ranks = 2};
  EXPECT_EQ(spec.kv_events, events);
  EXPECT_EQ(spec.in_flight_max, 64);
  EXPECT_EQ(spec.source, "config");
}

TEST(RouteConfig, ReadsSimulatedReplicas) {
  const Result<RouteConfig> config = Parsed(R"(
replicas:
  - {name: demo/0, simulate: {}}
  - {name: demo/1, models: [other], simulate: {kv_blocks: 100, kv_events: false}}
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->replicas[0].simulate, SimulatedEngine{});
  EXPECT_THAT(config->replicas[0].spec.models, ElementsAre("demo"));
  EXPECT_EQ(config->replicas[1].simulate->kv_blocks, 100);
  EXPECT_FALSE(config->replicas[1].simulate->kv_events);
}

// Under the heading "## Example" of the page.
TEST(RouteConfig, TakesTheExampleOfItsPage) {
  const Result<std::string> page =
      ReadFile(SUBLET_SOURCE_DIR "/docs/formats/route.md", std::size_t{1} << 20);
  ASSERT_TRUE(page);
  const std::size_t begin = page->find("```yaml\n", page->find("## Example"));
  ASSERT_NE(begin, std::string::npos);
  const std::size_t end = page->find("```", begin + 8);
  const Result<RouteConfig> config =
      ParseRouteConfig(page->substr(begin + 8, end - begin - 8), "route.md");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->replicas.size(), 2u);
  EXPECT_TRUE(config->kubernetes);
  EXPECT_TRUE(config->node);
}

struct BadValue {
  const char* text;
  const char* message;
};

TEST(RouteConfig, SaysWhatIsWrong) {
  for (const auto& [text, message] : std::initializer_list<BadValue>{
           {"polcy: cost", "did you mean 'policy'"},
           {"policy: costs", "did you mean 'cost'"},
           {"policy: {seed: 1}", "'name'"},
           {"policy: {name: cost, seed: -1}", "must be from 0"},
           {"listen: {address: localhost}", "not an address of this machine"},
           {"listen: {port: 70000}", "70000"},
           {"listen: {tls: {certificate: a.pem}}", "'key'"},
           {"replicas: [{name: a}]", "'url'"},
           {"replicas: [{name: a, urls: x}]", "did you mean 'url'"},
           {"replicas: [{url: gpu1}]", "begins with http://"},
           {"replicas: [{url: 'http://a', simulate: {}}]", "isn't simulated"},
           {"replicas: [{simulate: {}}]", "'name'"},
           {"replicas: [{name: a b, url: 'http://a'}]", "not a replica's name"},
           {"replicas: [{url: 'http://a'}, {url: 'http://a/'}]", "two replicas of one name"},
           {"replicas: [{url: 'http://a', kv_events: {endpoint: 'tcp://*:5557'}}]", "instead of *"},
           {"replicas: [{url: 'http://a', kv_events: {endpoint: 'tcp://a'}}]", "KV events"},
           {"replicas: [{url: 'http://a', share: {sm_percent: 0}}]", "must be from 1 to 100"},
           {"discovery: {kubernetes: {port: http}}", "'service' or a 'selector'"},
           {"discovery: {kubernetes: {service: a, selector: b}}", "both a service and a selector"},
           {"discovery: {kubernetes: {service: a, kv_events: {}}}", "'port'"},
           {"discovery: {consul: {}}", "consul"},
           {"aliases: {a: b, b: c}", "alias of an alias"},
           {"queue: {weights: {a: 0}}", "0"},
           {"limits: {body_bytes_max: 64}", "write it like 64MiB"},
           {"limits: {body_bytes_max: 2GiB}", "1GiB"},
           {"limits: {body_bytes_max: 64MiB, bodies_bytes_max: 1MiB}", "one body"},
           {"timeouts: {connect_s: 0}", "must be from 0.001"},
           {"retries: {tries_max: 0}", "must be from 1 to 16"},
           {"health: {path: health}", "begin it with /"},
           {"upstream: {verify: false, ca_file: a}", "leave one of the two out"},
           {"access_log: {}", "'path'"},
           {"cache: {bytes_max: 2MiB}", "4MiB"},
           {"threads: 1000", "1000"},
       }) {
    EXPECT_THAT(Wrong(text), HasSubstr(message)) << text;
  }
  EXPECT_THAT(Wrong("\nreplicas:\n  - nme: a\n"), HasSubstr("route.yaml:4:5"));
}

TEST(RouteConfig, FindsItsFilesBesideItself) {
  RouteConfig config;
  config.keys_file = "keys.yaml";
  config.access_log.path = "-";
  config.upstream.ca_file = "/etc/ca.pem";
  config.listen.tls = {.certificate = "tls/cert.pem", .key = "tls/key.pem"};
  ResolvePaths(config, "/etc/sublet");
  EXPECT_EQ(config.keys_file, "/etc/sublet/keys.yaml");
  EXPECT_EQ(config.access_log.path, "-");
  EXPECT_EQ(config.upstream.ca_file, "/etc/ca.pem");
  EXPECT_EQ(config.listen.tls->key, "/etc/sublet/tls/key.pem");
  EXPECT_EQ(config.upstream.key_file, "");
}

TEST(RouteConfig, ReadsOneReplicaAsTheWorkersApiHasIt) {
  const auto replica = ParseRouteReplica(R"({"url":"http://10.0.0.1:8000"})", "body");
  ASSERT_TRUE(replica) << replica.error().message;
  EXPECT_EQ(replica->spec.name, "10.0.0.1:8000");
  EXPECT_FALSE(ParseRouteReplica(R"({"url":"http://a","source":"node"})", "body"));
}

}  // namespace
}  // namespace sublet
