#include "measure/lessons.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "measure/tests/h200_measurement.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Lesson LessonIn(const Measurement& m, std::string_view name) {
  for (const Lesson& lesson : GradeLessons(m)) {
    if (lesson.name == name) return lesson;
  }
  return {.name = "absent", .statement = {}, .required = {}, .measured = "absent"};
}

// Every run that `chosen` picks, changed by `change`.
Measurement Changed(const std::function<bool(const Run&)>& chosen,
                    const std::function<void(Run&)>& change) {
  Measurement m = H200Measurement();
  int changed = 0;
  for (Run& run : m.runs) {
    if (!chosen(run)) continue;
    change(run);
    ++changed;
  }
  EXPECT_GT(changed, 0);
  return m;
}

bool IsSmall(const Run& run, SharingMode mode, std::size_t copies) {
  return run.mode == mode && run.servers == 1 && run.tenants.size() == copies &&
         run.tenants[0].workload == "small";
}

TEST(Lessons, AllHoldOnTheH200) {
  const std::vector<Lesson> lessons = GradeLessons(H200Measurement());
  std::vector<std::string> names;
  for (const Lesson& lesson : lessons) {
    EXPECT_TRUE(lesson.passed) << lesson.name << ": " << lesson.measured;
    names.push_back(lesson.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"two-streams", "time-slicing-costs", "mps-small-2",
                                             "mps-small-4", "memory-limit", "drift", "copy-overlap",
                                             "fair-sharing", "mps-over-time-slicing", "two-servers",
                                             "server-contains-fault"}));
}

TEST(Lessons, SayWhatWasMeasuredAndWhatWasRequired) {
  const Lesson streams = LessonIn(H200Measurement(), "two-streams");
  EXPECT_EQ(streams.measured, "1.95x");
  EXPECT_EQ(streams.required, "at least 1.05x");
  const Lesson sliced = LessonIn(H200Measurement(), "time-slicing-costs");
  EXPECT_EQ(sliced.measured, "2.60x (least: big)");
  EXPECT_EQ(LessonIn(H200Measurement(), "memory-limit").measured, "0.05 % (largest error)");
  EXPECT_EQ(LessonIn(H200Measurement(), "mps-over-time-slicing").statement,
            "40 transformers do more under MPS than time-sliced");
}

TEST(Lessons, FailsWhereTwoStreamsDoNoMoreThanOne) {
  const Measurement m = Changed([](const auto& run) { return run.id == "streams/small/x2"; },
                                [](auto& run) { run.total_per_s.value = 1.04 * 10'013; });
  const Lesson lesson = LessonIn(m, "two-streams");
  EXPECT_FALSE(lesson.passed);
  EXPECT_EQ(lesson.measured, "1.04x");
}

TEST(Lessons, FailsWhereProcessesWithoutMpsDoNotSlowEachOther) {
  const Measurement m =
      Changed([](const auto& run) { return IsSmall(run, SharingMode::kTimeSlicing, 2); },
              [](auto& run) { run.tenants[1].rate_per_s.value = 9000; });
  const Lesson lesson = LessonIn(m, "time-slicing-costs");
  EXPECT_FALSE(lesson.passed);
  EXPECT_THAT(lesson.measured, HasSubstr("least: small"));
}

TEST(Lessons, FailsWhereOneOfFourMpsClientsIsSlow) {
  const Measurement m = Changed([](const auto& run) { return IsSmall(run, SharingMode::kMps, 4); },
                                [](auto& run) { run.tenants[3].rate_per_s.value = 10'013 / 1.11; });
  EXPECT_FALSE(LessonIn(m, "mps-small-4").passed);
  EXPECT_EQ(LessonIn(m, "mps-small-4").measured, "1.11x (slowest)");
  EXPECT_TRUE(LessonIn(m, "mps-small-2").passed);
}

TEST(Lessons, FailsWhereAMemoryLimitIsOffOnEitherSide) {
  for (const double error : {2.0, -2.5, 40.0}) {
    Measurement m = H200Measurement();
    m.quotas[0].error_percent = error;
    EXPECT_FALSE(LessonIn(m, "memory-limit").passed) << error;
  }
}

TEST(Lessons, FailsWhereAMemoryLimitIsNotEnforcedAtAll) {
  Measurement m = H200Measurement();
  m.quotas[0].enforced = false;
  const Lesson lesson = LessonIn(m, "memory-limit");
  EXPECT_FALSE(lesson.passed);
  EXPECT_THAT(lesson.measured, HasSubstr("not enforced: CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"));
}

TEST(Lessons, FailsWhereTheCardChangedItsSpeedEitherWay) {
  for (const double drift : {5.0, -6.0}) {
    Measurement m = H200Measurement();
    m.drift_percent = drift;
    EXPECT_FALSE(LessonIn(m, "drift").passed) << drift;
  }
}

TEST(Lessons, FailsWhereTheFaultReachedTheOtherServer) {
  Measurement m = H200Measurement();
  m.faults[0].survivors = 1;
  EXPECT_EQ(LessonIn(m, "server-contains-fault").measured, "50.00 % (1 of 2)");
  EXPECT_FALSE(LessonIn(m, "server-contains-fault").passed);
}

TEST(Lessons, FailsWhereEqualProcessesGetUnequalParts) {
  const Measurement m = Changed([](const auto& run) { return IsSmall(run, SharingMode::kMps, 2); },
                                [](auto& run) { run.fairness = 0.9; });
  const Lesson lesson = LessonIn(m, "fair-sharing");
  EXPECT_FALSE(lesson.passed);
  EXPECT_EQ(lesson.measured, "0.90 (least: mps/small/x2)");
}

TEST(Lessons, WhatCouldNotBeMeasuredFailsWithTheLabsReason) {
  Measurement m = H200Measurement();
  std::erase_if(m.runs, [](const auto& run) { return run.mode == SharingMode::kMps; });
  m.quotas.clear();
  m.drift_percent.reset();
  m.skipped.push_back({"mps", "nvidia-cuda-mps-control is not installed"});
  const Lesson lesson = LessonIn(m, "mps-small-2");
  EXPECT_FALSE(lesson.passed);
  EXPECT_EQ(lesson.measured, "not measured: nvidia-cuda-mps-control is not installed");
  EXPECT_EQ(LessonIn(m, "memory-limit").measured, "not measured: no limit was tried");
  EXPECT_FALSE(LessonIn(m, "drift").passed);
  EXPECT_EQ(LessonIn(m, "two-servers").name, "absent") << "only graded where it was run";
}

TEST(Lessons, OfAnEmptyMeasurementAreTheSixThatMustBeThereAndAllFail) {
  const std::vector<Lesson> lessons = GradeLessons(Measurement{});
  ASSERT_EQ(lessons.size(), 6u);
  for (const Lesson& lesson : lessons) {
    EXPECT_FALSE(lesson.passed) << lesson.name;
    EXPECT_THAT(lesson.measured, StartsWith("not measured: ")) << lesson.name;
  }
}

TEST(Lessons, ATenantThatDidNothingDoesNotPass) {
  const Measurement m = Changed([](const auto& run) { return IsSmall(run, SharingMode::kMps, 2); },
                                [](auto& run) { run.tenants[0].rate_per_s = {}; });
  EXPECT_FALSE(LessonIn(m, "mps-small-2").passed);
}

TEST(Lessons, AreWrittenAsTheReportReadsThem) {
  const auto json = LessonsToJson(GradeLessons(H200Measurement()));
  ASSERT_EQ(json.size(), 11u);
  const nlohmann::ordered_json first = {
      {"name", "two-streams"},
      {"statement", "two streams of one process do more work than one (small)"},
      {"passed", true},
      {"measured", "1.95x"},
      {"required", "at least 1.05x"}};
  EXPECT_EQ(json[0].dump(), first.dump());
}

}  // namespace
}  // namespace sublet
