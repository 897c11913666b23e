#include "kvcache/kv_event.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using What = KvEvent::What;

constexpr EngineHash kDigestLow = 0x18191a1b1c1d1e1f;  // Of make_kv_event_golden.py's DIGEST.

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::map<std::string, std::string> ReadGolden() {
  std::map<std::string, std::string> golden;
  std::ifstream in(SUBLET_SOURCE_DIR "/src/kvcache/tests/kv_event_golden.txt");
  std::string name, hex;
  while (in >> name >> hex) golden[name] = FromHex(hex);
  return golden;
}

const std::string& Golden(const std::string& name) {
  static const auto* const kGolden = new std::map<std::string, std::string>(ReadGolden());
  return kGolden->at(name);
}

KvEventBatch Decoded(const std::string& name) {
  Result<KvEventBatch> batch = DecodeKvEventBatch(Golden(name));
  EXPECT_TRUE(batch.has_value()) << name << ": " << (batch ? "" : batch.error().message);
  return batch ? *batch : KvEventBatch();
}

KvEvent Stored() {
  KvEvent event;
  event.blocks = {11, ~EngineHash{0}};
  event.parent = 7;
  event.tokens = {1, 2, 3, 4};
  event.block_tokens = 2;
  return event;
}

KvEvent Removed() {
  KvEvent event;
  event.what = What::kRemoved;
  event.blocks = {11};
  return event;
}

KvEvent Cleared() {
  KvEvent event;
  event.what = What::kCleared;
  return event;
}

KvEventBatch Batch(std::vector<KvEvent> events, std::optional<int> rank = {}) {
  return {.time_s = 1.5, .dp_rank = rank, .events = std::move(events)};
}

// Both ways: what Python packed is what we read and what we write.
void ExpectGolden(const std::string& name, const KvEventBatch& batch, KvEncoding encoding) {
  EXPECT_EQ(Decoded(name), batch) << name;
  EXPECT_EQ(EncodeKvEventBatch(batch, encoding), Golden(name)) << name;
}

TEST(KvEventGolden, ArraysAreReadAndWritten) {
  ExpectGolden("arrays", Batch({Stored(), Removed(), Cleared()}), KvEncoding::kArrays);
  ExpectGolden("arrays_rank", Batch({Cleared()}, 3), KvEncoding::kArrays);
}

TEST(KvEventGolden, ArraysWithGroupAndExtraKeysAreReadAndWritten) {
  KvEvent stored = Stored();
  stored.group = 2;
  ExpectGolden("arrays_group", Batch({stored}), KvEncoding::kArrays);
  stored.lora = "sql";
  stored.extra = {"salt", ""};
  KvEvent removed = Removed();
  removed.group = 2;
  ExpectGolden("arrays_group_extra", Batch({stored, removed}), KvEncoding::kArrays);
}

TEST(KvEventGolden, AnAdapterWithoutANameIsItsNumber) {
  KvEvent stored = Stored();
  stored.lora = "#9";
  stored.tier = KvTier::kHost;
  ExpectGolden("arrays_lora_id", Batch({stored}), KvEncoding::kArrays);
}

TEST(KvEventGolden, MapsAreReadAndWritten) {
  ExpectGolden("array_of_maps", Batch({Stored(), Removed(), Cleared()}), KvEncoding::kArrayOfMaps);
  KvEvent stored = Stored();
  KvEvent removed = Removed();
  stored.group = removed.group = 2;
  ExpectGolden("maps", Batch({stored, removed}, 3), KvEncoding::kMaps);
}

TEST(KvEventGolden, TrailingFieldsMayBeAbsent) {
  const KvEventBatch batch = Decoded("vllm_first");
  ASSERT_EQ(batch.events.size(), 2u);
  EXPECT_THAT(batch.events[0].tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(batch.events[0].parent, std::nullopt);
  EXPECT_EQ(batch.events[0].tier, KvTier::kGpu);
  EXPECT_EQ(batch.events[1].what, What::kRemoved);
}

TEST(KvEventGolden, BytesCountByTheirLow64Bits) {
  const KvEventBatch batch = Decoded("vllm_bytes");
  ASSERT_EQ(batch.events.size(), 1u);
  EXPECT_THAT(batch.events[0].blocks, ElementsAre(kDigestLow));
  EXPECT_EQ(batch.events[0].parent, kDigestLow);
  EXPECT_THAT(Decoded("old_raw").events[0].blocks, ElementsAre(kDigestLow));
}

TEST(KvEventGolden, WhatNewerEnginesAddIsPassedOver) {
  EXPECT_EQ(Decoded("vllm_newest"), Batch({Stored(), Removed()}));
  KvEventBatch expected = Batch({Stored()});
  expected.time_s = 2;
  EXPECT_EQ(Decoded("vllm_map_newest"), expected);
}

TEST(KvEventGolden, TheTagOfAMapMayStandAnywhere) {
  const KvEventBatch batch = Decoded("vllm_map_type_last");
  ASSERT_EQ(batch.events.size(), 1u);
  EXPECT_EQ(batch.events[0].what, What::kRemoved);
  EXPECT_EQ(batch.events[0].tier, KvTier::kHost);
}

TEST(KvEventGolden, AnOffloadHasNoTokens) {
  const KvEventBatch batch = Decoded("vllm_offload");
  ASSERT_EQ(batch.events.size(), 1u);
  EXPECT_THAT(batch.events[0].tokens, IsEmpty());
  EXPECT_EQ(batch.events[0].tier, KvTier::kHost);
  EXPECT_EQ(batch.unknown_events, 0);
}

TEST(KvEventGolden, ExtraKeysAreOneTextABlock) {
  EXPECT_THAT(Decoded("vllm_images").events[0].extra, ElementsAre("img-a\x1f\x1dimg-b\x1f"
                                                                  "17\x1e",
                                                                  ""));
}

TEST(KvEventGolden, SglangsHashesMayBeNegative) {
  const KvEventBatch batch = Decoded("sglang");
  ASSERT_EQ(batch.events.size(), 2u);
  EXPECT_EQ(batch.dp_rank, 0);
  EXPECT_THAT(batch.events[0].blocks, ElementsAre(~EngineHash{0} - 1));
  EXPECT_EQ(batch.events[0].parent, ~EngineHash{0} - 2);
  EXPECT_EQ(batch.events[0].blocks, batch.events[1].blocks);
  EXPECT_EQ(Decoded("sglang_pinned").events[0].tier, KvTier::kHost);
  EXPECT_EQ(Decoded("disk").events[0].tier, KvTier::kStorage);
}

TEST(KvEventGolden, TokensThatMakeNoSenseAreNotClaimed) {
  for (const char* name : {"sglang_pairs", "wrong_count", "wide_token"}) {
    const KvEventBatch batch = Decoded(name);
    ASSERT_EQ(batch.events.size(), 1u) << name;
    EXPECT_THAT(batch.events[0].tokens, IsEmpty()) << name;
    EXPECT_EQ(batch.unknown_events, 1) << name;
  }
}

TEST(KvEventGolden, UnknownTagsAreCounted) {
  KvEventBatch expected = Batch({Cleared()});
  expected.unknown_events = 2;
  EXPECT_EQ(Decoded("unknown_tag"), expected);
}

TEST(KvEventGolden, TimeMayBeShortAndEventsNone) {
  EXPECT_EQ(Decoded("float32_time"), Batch({Cleared()}));
  EXPECT_EQ(Decoded("empty"), Batch({}));
}

TEST(KvEventGolden, WhatContradictsTheFormatIsRefused) {
  int refused = 0;
  for (const auto& [name, bytes] : ReadGolden()) {
    if (!name.starts_with("bad_")) continue;
    const Result<KvEventBatch> batch = DecodeKvEventBatch(bytes);
    ASSERT_FALSE(batch.has_value()) << name;
    EXPECT_EQ(batch.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(batch.error().message, HasSubstr("KV events: "));
    ++refused;
  }
  EXPECT_EQ(refused, 13);
}

TEST(KvEvent, CutAnywhereIsRefused) {
  for (const auto& [name, bytes] : ReadGolden()) {
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      // A copy of its own, so that a sanitizer sees a read behind the end.
      const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<long>(size));
      EXPECT_FALSE(DecodeKvEventBatch({cut.data(), cut.size()}).has_value()) << name << " " << size;
    }
    EXPECT_FALSE(DecodeKvEventBatch(bytes + '\0').has_value()) << name;
  }
}

TEST(KvEvent, AClaimOfMoreThanFollowsIsRefused) {
  // Arrays and maps of 2^32-1; msgpuck's own check counts them into an int and passes the first.
  for (const char* hex : {"ddffffffff", "dfffffffff", "92cb3ff8000000000000ddffffffff",
                          "92cb3ff800000000000091ddffffffffab426c6f636b53746f726564",
                          "dd7fffffffdd7fffffffdd00000003", "c6ffffffff00", "c1"}) {
    EXPECT_FALSE(DecodeKvEventBatch(FromHex(hex)).has_value()) << hex;
  }
}

TEST(KvEvent, DeepNestingIsPassedOverWithoutRecursion) {
  const std::string deep(1 << 20, '\x91');
  const std::string head = FromHex("93cb3ff800000000000090");
  const Result<KvEventBatch> batch = DecodeKvEventBatch(head + deep + '\x01');
  ASSERT_TRUE(batch.has_value());
  EXPECT_EQ(batch->dp_rank, std::nullopt);
}

TEST(KvEvent, DeeplyNestedExtraKeysAreNotClaimed) {
  const std::string head =
      FromHex("92cb3ff80000000000009199ab426c6f636b53746f726564910bc0910101c0a3475055c091");
  const Result<KvEventBatch> batch = DecodeKvEventBatch(head + std::string(100, '\x91') + '\x01');
  ASSERT_TRUE(batch.has_value()) << batch.error().message;
  EXPECT_THAT(batch->events[0].tokens, IsEmpty());
  EXPECT_EQ(batch->unknown_events, 1);
}

rc::Gen<KvEvent> ArbitraryEvent() {
  return rc::gen::exec([] {
    KvEvent event;
    event.what = *rc::gen::element(What::kStored, What::kRemoved, What::kCleared);
    if (event.what == What::kCleared) return event;
    event.blocks = *rc::gen::arbitrary<std::vector<EngineHash>>();
    event.tier = *rc::gen::element(KvTier::kGpu, KvTier::kHost, KvTier::kStorage);
    event.group = *rc::gen::inRange(0, 300);
    if (event.what == What::kRemoved) return event;
    event.parent = *rc::gen::maybe(rc::gen::arbitrary<EngineHash>()).as("parent")
                       ? std::optional<EngineHash>(*rc::gen::arbitrary<EngineHash>())
                       : std::nullopt;
    event.block_tokens = *rc::gen::inRange(1, 5);
    if (*rc::gen::arbitrary<bool>()) {
      event.tokens = *rc::gen::container<std::vector<TokenId>>(
          event.blocks.size() * static_cast<std::size_t>(event.block_tokens),
          rc::gen::arbitrary<TokenId>());
    }
    event.lora = *rc::gen::element<std::string>("", "sql", "#12", "#", "#x");
    bool any = false;
    for (std::size_t i = 0; i < event.blocks.size(); ++i) {
      event.extra.push_back(*rc::gen::element<std::string>("", "salt",
                                                           "a\x1f"
                                                           "b",
                                                           "\x1f", "sql"));
      any = any || !event.extra.back().empty();
    }
    if (!any) event.extra.clear();
    return event;
  });
}

RC_GTEST_PROP(KvEventProperty, WhatIsWrittenIsReadBack, ()) {
  KvEventBatch batch;
  batch.time_s = *rc::gen::arbitrary<double>();
  if (*rc::gen::arbitrary<bool>()) batch.dp_rank = *rc::gen::inRange(0, 100000);
  batch.events = *rc::gen::container<std::vector<KvEvent>>(ArbitraryEvent());
  for (const KvEncoding encoding :
       {KvEncoding::kArrays, KvEncoding::kArrayOfMaps, KvEncoding::kMaps}) {
    const Result<KvEventBatch> read = DecodeKvEventBatch(EncodeKvEventBatch(batch, encoding));
    RC_ASSERT(read.has_value());
    RC_ASSERT(*read == batch);
  }
}

}  // namespace
}  // namespace sublet
