#include "node/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "admission_rig.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

Share ShareOn(const std::string& id, const std::string& gpu, Bytes memory,
              SharingMode mode = SharingMode::kMps) {
  Share share;
  share.id = id;
  share.tenant = "search";
  share.mode = mode;
  share.gpu_uuid = gpu;
  share.memory = memory;
  if (mode == SharingMode::kMps) share.domain = "run-gpu0-search";
  return share;
}

TEST(Ledger, BooksUntilADeviceIsFull) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  ASSERT_TRUE(ledger.Book(ShareOn("s1", "GPU-0", 50_GiB)));
  const Status second = ledger.Book(ShareOn("s2", "GPU-0", 30_GiB + 1_MiB));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kConflict);
  EXPECT_THAT(second.error().message,
              HasSubstr("GPU-0 has 80.0 GiB, of which 50.0 GiB are booked"));
  EXPECT_TRUE(ledger.Book(ShareOn("s2", "GPU-0", 30_GiB)));
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 80_GiB);
  EXPECT_EQ(ledger.SharesOn("GPU-0").size(), 2u);
  EXPECT_EQ(ledger.SharesIn("run-gpu0-search"), 2);
  ledger.Release("s1");
  ledger.Release("s1");
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 30_GiB);
  EXPECT_EQ(ledger.SharesIn("run-gpu0-search"), 1);
  ledger.Release("s2");
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 0_GiB);
  EXPECT_TRUE(ledger.SharesOn("GPU-0").empty());
}

TEST(Ledger, KeepsWhatIsHeldAloneAlone) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  ASSERT_TRUE(ledger.Book(ShareOn("s1", "GPU-0", 1_GiB, SharingMode::kExclusive)));
  EXPECT_THAT(ledger.Book(ShareOn("s2", "GPU-0", 1_GiB)).error().message, HasSubstr("held alone"));
  ledger.Release("s1");
  ASSERT_TRUE(ledger.Book(ShareOn("s2", "GPU-0", 1_GiB)));
  EXPECT_FALSE(ledger.Book(ShareOn("s1", "GPU-0", 1_GiB, SharingMode::kExclusive)));
}

TEST(Ledger, BooksNothingOnADeviceThatIsNotThere) {
  Ledger ledger = LedgerOf({MigGpu(0), MigDevice(0, 1, "1g.10gb", 10_GiB, 14)});
  EXPECT_FALSE(ledger.Book(ShareOn("s1", "GPU-1", 1_GiB)));
  EXPECT_FALSE(ledger.Book(ShareOn("s1", "GPU-0", 1_GiB))) << "a GPU in MIG mode";
  Share share = ShareOn("s1", "GPU-0", 1_GiB);
  share.mig_uuid = "MIG-00000001-x";
  EXPECT_TRUE(ledger.Book(share));
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 1_GiB) << "with its MIG devices";
}

TEST(Ledger, CountsForeignProcesses) {
  Device device = WholeGpu(0, 80_GiB);
  ForeignProcess process;
  process.pid = 7;
  process.memory = 70_GiB;
  device.foreign.push_back(process);
  Ledger ledger = LedgerOf({device});
  EXPECT_FALSE(ledger.Book(ShareOn("s1", "GPU-0", 11_GiB)));
  EXPECT_TRUE(ledger.Book(ShareOn("s1", "GPU-0", 10_GiB)));
}

TEST(Ledger, KeepsSharesOfDevicesThatAreGone) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB), WholeGpu(1, 80_GiB)});
  ASSERT_TRUE(ledger.Book(ShareOn("s1", "GPU-1", 50_GiB)));
  ledger.SetDevices({WholeGpu(0, 80_GiB)});
  EXPECT_EQ(ledger.FindDevice("GPU-1"), nullptr);
  EXPECT_EQ(ledger.SharesOn("GPU-1").size(), 1u);
  ledger.SetDevices({WholeGpu(0, 80_GiB), WholeGpu(1, 80_GiB)});
  EXPECT_FALSE(ledger.Book(ShareOn("s2", "GPU-1", 31_GiB))) << "it is still booked";
}

TEST(Ledger, KeepsWhatIsHeldThoughThereIsNoRoom) {
  Ledger ledger = LedgerOf({WholeGpu(0, 10_GiB)});
  ledger.Keep(ShareOn("s1", "GPU-0", 20_GiB));
  ledger.Keep(ShareOn("s2", "GPU-9", 20_GiB));
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 20_GiB);
  EXPECT_FALSE(ledger.Book(ShareOn("s3", "GPU-0", 1_MiB)));
  ledger.Release("s1");
  ledger.Release("s2");
  EXPECT_TRUE(ledger.Book(ShareOn("s3", "GPU-0", 10_GiB)));
}

TEST(Ledger, ACopyIsOnItsOwn) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  ASSERT_TRUE(ledger.Book(ShareOn("s1", "GPU-0", 50_GiB)));
  Ledger copy = ledger;
  copy.Release("s1");
  ASSERT_TRUE(copy.Book(ShareOn("s2", "GPU-0", 80_GiB)));
  EXPECT_EQ(ledger.BookedOn("GPU-0"), 50_GiB);
  EXPECT_EQ(copy.BookedOn("GPU-0"), 80_GiB);
}

TEST(LedgerDeathTest, DiesOfAnIdThatIsBookedTwice) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  ASSERT_TRUE(ledger.Book(ShareOn("s1", "GPU-0", 1_GiB)));
  EXPECT_DEATH(static_cast<void>(ledger.Book(ShareOn("s1", "GPU-0", 1_GiB))), "");
}

}  // namespace
}  // namespace sublet
