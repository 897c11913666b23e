#include "node/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "admission_rig.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Books grants one after the other; fails the test where one is refused.
class Node {
 public:
  explicit Node(std::vector<Device> devices, std::vector<TenantConfig> tenants = {})
      : ledger_(LedgerOf(std::move(devices), std::move(tenants))) {}

  Grant Get(const Wish& wish) {
    Result<Grant> grant = AdmitAndBook(ledger_, wish, ++number_);
    EXPECT_TRUE(grant) << grant.error().message;
    return grant ? std::move(*grant) : Grant{};
  }
  Error Refused(const Wish& wish) const {
    Result<Grant> grant = Admit(ledger_, wish.Request(), Owner());
    EXPECT_FALSE(grant) << grant->share.reason;
    return grant ? Error{} : std::move(grant).error();
  }
  Ledger& ledger() { return ledger_; }

 private:
  Ledger ledger_;
  int number_ = 0;
};

std::string By(const Share& share, const std::string& what) {
  for (const Enforcement& enforcement : share.enforcement) {
    if (enforcement.what != what) continue;
    EXPECT_EQ(enforcement.enforced, !enforcement.by.starts_with("not enforced")) << what;
    return enforcement.by;
  }
  return "";
}

Device With(Device device, int pid, Bytes memory) {
  ForeignProcess process;
  process.pid = pid;
  process.name = "python3";
  process.memory = memory;
  device.foreign.push_back(process);
  return device;
}

Requester Other(uid_t uid) {
  Requester requester;
  requester.uid = uid;
  requester.own_daemon = true;
  return requester;
}

TEST(Admission, GivesEachUserOfATenantADomainOfItsOwn) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  const Wish wish{.memory = 1_GiB, .tenant = "a"};
  const auto first = AdmitAndBook(ledger, wish, 1, Other(7));
  const auto second = AdmitAndBook(ledger, wish, 2, Other(8));
  const auto third = AdmitAndBook(ledger, wish, 3, Other(7));
  ASSERT_TRUE(first && second && third);
  EXPECT_EQ(first->new_domain->uid, 7);
  ASSERT_TRUE(second->new_domain);
  EXPECT_EQ(second->new_domain->uid, 8);
  EXPECT_NE(second->share.domain, first->share.domain);
  EXPECT_FALSE(third->new_domain);
  EXPECT_EQ(third->share.domain, first->share.domain);
}

TEST(Admission, RefusesMpsForAUserAsWhomNoServerCanRun) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  Requester requester = Other(7);
  requester.mps = false;
  const Wish wish{.memory = 1_GiB, .tenant = "a"};
  const auto refused = Admit(ledger, wish.Request(), requester);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("can't run mps for user 7"));
  const Wish alone{.tenant = "a"};
  EXPECT_TRUE(Admit(ledger, alone.Request(), requester));
}

TEST(Admission, WithoutLimitsGivesAGpuAlone) {
  Node node({WholeGpu(0, 80_GiB), WholeGpu(1, 40_GiB)});
  const Grant first = node.Get({});
  EXPECT_EQ(first.share.mode, SharingMode::kExclusive);
  EXPECT_EQ(first.share.gpu_uuid, "GPU-1") << "the smaller of the two";
  EXPECT_EQ(first.share.memory, 40_GiB);
  EXPECT_FALSE(first.share.memory_limit || first.share.sm_percent || first.new_domain);
  EXPECT_EQ(By(first.share, "memory"), "whole GPU");
  EXPECT_EQ(node.Get({}).share.gpu_uuid, "GPU-0");
  const Error error = node.Refused({});
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("no room for a whole GPU: GPU 0 is held alone by s2"));
  EXPECT_THAT(error.hint, HasSubstr("--gpu-memory 10GiB"));
}

TEST(Admission, WithLimitsMakesAClientOfItsTenantsServer) {
  Node node({WholeGpu(0, 80_GiB)});
  const Grant grant = node.Get({.memory = 10_GiB, .sm_percent = 20, .tenant = "search"});
  EXPECT_EQ(grant.share.mode, SharingMode::kMps);
  EXPECT_EQ(grant.share.memory_limit, 10_GiB);
  EXPECT_EQ(grant.share.memory, 10_GiB + 40_MiB) << "with its context of 20 % of the SMs";
  EXPECT_EQ(grant.share.sm_percent, 20);
  EXPECT_EQ(By(grant.share, "memory"), "MPS pinned device memory limit");
  EXPECT_EQ(By(grant.share, "sm"), "MPS active thread percentage");
  EXPECT_EQ(By(grant.share, "fault"), "an MPS server of its tenant's own");
  ASSERT_TRUE(grant.new_domain);
  EXPECT_EQ(grant.new_domain->name, "run-gpu0-search");
  EXPECT_EQ(grant.new_domain->tenant, "search");
  EXPECT_FALSE(grant.new_domain->planned);
  EXPECT_EQ(grant.share.domain, grant.new_domain->name);
  EXPECT_THAT(grant.share.reason, HasSubstr("MPS enforces the limits"));

  const Grant second = node.Get({.memory = 10_GiB, .tenant = "search"});
  EXPECT_FALSE(second.new_domain) << "it is there already";
  EXPECT_EQ(second.share.domain, "run-gpu0-search");
  EXPECT_EQ(By(second.share, "sm"), "not enforced: it may use every SM");
  EXPECT_THAT(second.share.reason, HasSubstr("add up to 120 %, each of them a maximum"));

  const Grant other = node.Get({.memory = 10_GiB, .tenant = "lab"});
  ASSERT_TRUE(other.new_domain);
  EXPECT_EQ(other.new_domain->name, "run-gpu0-lab") << "no fault domain for two tenants";
  EXPECT_THAT(other.share.reason, HasSubstr("takes turns with the MPS servers of search"));
}

TEST(Admission, SmsWithoutMemoryBookTheContextAndSayWhatIsNotEnforced) {
  Node node({WholeGpu(0, 80_GiB)});
  const Grant grant = node.Get({.sm_percent = 25});
  EXPECT_EQ(grant.share.memory, 50_MiB);
  EXPECT_FALSE(grant.share.memory_limit);
  EXPECT_THAT(By(grant.share, "memory"), HasSubstr("not enforced"));
}

TEST(Admission, TakesTheFullestDeviceThatStillHasRoom) {
  Node node({WholeGpu(0, 80_GiB), WholeGpu(1, 40_GiB), WholeGpu(2, 40_GiB)});
  EXPECT_EQ(node.Get({.memory = 30_GiB, .tenant = "a"}).share.gpu_uuid, "GPU-1");
  EXPECT_EQ(node.Get({.memory = 20_GiB, .tenant = "b"}).share.gpu_uuid, "GPU-2");
  EXPECT_EQ(node.Get({.memory = 8_GiB, .tenant = "b"}).share.gpu_uuid, "GPU-2")
      << "its tenant's server is there, though GPU 1 is fuller";
  EXPECT_EQ(node.Get({.memory = 8_GiB, .tenant = "c"}).share.gpu_uuid, "GPU-1");
  EXPECT_EQ(node.Get({.memory = 50_GiB, .tenant = "b"}).share.gpu_uuid, "GPU-0");
}

TEST(Admission, CountsForeignProcessesAndNamesThem) {
  Node node({With(WholeGpu(0, 80_GiB), 4711, 60_GiB)});
  const Error error = node.Refused({.memory = 20_GiB, .sm_percent = 50});
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message,
              AllOf(HasSubstr("no room for 20.0 GiB and 50 % of the SMs: GPU 0 has 19.9 GiB"),
                    HasSubstr("of 80.0 GiB left, 20.1 GiB are needed (100 MiB of it for the CUDA"),
                    HasSubstr("python3 (pid 4711) holds 60.0 GiB")));
  EXPECT_THAT(error.hint, HasSubstr("(--gpu-memory 20300MiB)")) << error.hint;
  node.Get({.memory = Bytes::FromMib(20300), .sm_percent = 50});
  const Error alone = node.Refused({.mode = SharingMode::kExclusive});
  EXPECT_THAT(alone.message, HasSubstr("GPU 0 has 1 share"));
  EXPECT_THAT(Node({With(WholeGpu(0, 80_GiB), 7, 1_MiB)}).Refused({}).message,
              HasSubstr("is used by others than Sublet: python3 (pid 7) holds 1 MiB"));
}

TEST(Admission, KeepsADeviceInOneModeUnlessBothAreNamed) {
  Node node({WholeGpu(0, 80_GiB)});
  const Grant slicing = node.Get({.mode = SharingMode::kTimeSlicing, .memory = 10_GiB});
  EXPECT_EQ(slicing.share.memory, 10_GiB + 200_MiB);
  EXPECT_FALSE(slicing.share.memory_limit) << "nobody sets one";
  EXPECT_EQ(By(slicing.share, "memory"), "not enforced: any process can take what is free");
  EXPECT_EQ(By(slicing.share, "fault"), "a process of its own");
  const Error error = node.Refused({.mode = SharingMode::kMps, .memory = 1_GiB});
  EXPECT_THAT(error.message, HasSubstr("GPU 0 is shared by time-slicing"));
  EXPECT_THAT(error.hint, HasSubstr("name GPU and mode both"));
  node.Refused({.memory = 1_GiB});
  EXPECT_EQ(node.Get({.mode = SharingMode::kMps, .memory = 1_GiB, .gpu = "0"}).share.mode,
            SharingMode::kMps);
  node.Refused({.mode = SharingMode::kExclusive, .gpu = "0"});
}

TEST(Admission, SaysWhatRunsUnenforcedWhereNothingEnforces) {
  Device device = WholeGpu(0, 80_GiB);
  device.modes.erase(SharingMode::kMps);
  Node node({device});
  const Error error = node.Refused({.memory = 10_GiB, .sm_percent = 20});
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("nothing here can enforce 10.0 GiB and 20 % of the SMs"));
  EXPECT_THAT(error.hint, HasSubstr("--mode time-slicing"));
  node.Get({.mode = SharingMode::kTimeSlicing, .memory = 10_GiB});
}

TEST(Admission, FindsWhatIsNamedAndListsWhatThereIs) {
  Node node({WholeGpu(0, 80_GiB), WholeGpu(1, 80_GiB)});
  EXPECT_EQ(node.Get({.memory = 1_GiB, .gpu = "1"}).share.gpu_uuid, "GPU-1");
  EXPECT_EQ(node.Get({.memory = 1_GiB, .gpu = "GPU-0"}).share.gpu_uuid, "GPU-0");
  for (const char* gpu : {"2", "GPU-7", "-1", "1x", "MIG-1"}) {
    const Error error = node.Refused({.memory = 1_GiB, .gpu = gpu});
    EXPECT_EQ(error.code, ErrorCode::kNotFound) << gpu;
    EXPECT_THAT(error.hint, HasSubstr("there are: 0 (GPU-0), 1 (GPU-1)"));
  }
  EXPECT_EQ(Node({}).Refused({}).code, ErrorCode::kInfeasible);
}

TEST(Admission, GivesNothingOnAnUnhealthyGpu) {
  Device sick = WholeGpu(0, 80_GiB);
  sick.obstacle = "XID 79 (fallen off the bus)";
  Node node({sick, WholeGpu(1, 80_GiB)});
  EXPECT_EQ(node.Get({.memory = 1_GiB}).share.gpu_uuid, "GPU-1");
  const Error error = node.Refused({.memory = 1_GiB, .gpu = "0"});
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("gets no new shares: XID 79 (fallen off the bus)"));
}

TEST(Admission, TellsTooLargeFromNoRoom) {
  Node node({WholeGpu(0, 80_GiB)});
  const Error error = node.Refused({.memory = 80_GiB});
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, HasSubstr("GPU 0 has 80.0 GiB in all, 80.2 GiB are needed"));
  EXPECT_EQ(node.Refused({.memory = 80_GiB - 200_MiB}).code, ErrorCode::kConflict)
      << "the MPS server needs some memory, too";
  node.Get({.memory = 80_GiB - 200_MiB - kMpsServerMemory});
}

TEST(Admission, StopsAtTheClientsThatOneServerTakes) {
  Node node({WholeGpu(0, 80_GiB)});
  for (int i = 0; i < kMpsClientsMax; ++i) node.Get({.memory = 100_MiB, .tenant = "a"});
  const Error error = node.Refused({.memory = 100_MiB, .tenant = "a"});
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("has 48 shares in MPS domain run-gpu0-a, the most"));
  node.Get({.memory = 100_MiB, .tenant = "b"});
  node.ledger().Release("s7");
  node.Get({.memory = 100_MiB, .tenant = "a"});
}

TEST(Admission, HoldsTenantsToTheirQuotas) {
  TenantConfig search;
  search.name = "search";
  search.quota = {.gpu_memory = 20_GiB, .sm_percent = 50, .shares = 3};
  Node node({WholeGpu(0, 80_GiB)}, {search});
  const Grant first = node.Get({.memory = 10_GiB, .sm_percent = 20});
  ASSERT_TRUE(first.new_domain);
  EXPECT_EQ(first.new_domain->memory_limit, 20_GiB) << "no client of it can have more";
  EXPECT_EQ(first.new_domain->sm_percent, 50);
  const Error memory = node.Refused({.memory = 10_GiB, .sm_percent = 20});
  EXPECT_EQ(memory.code, ErrorCode::kConflict);
  EXPECT_THAT(memory.message, HasSubstr("tenant search may hold 20.0 GiB of GPU memory and holds "
                                        "10.0 GiB: no 10.0 GiB more"));
  EXPECT_THAT(node.Refused({.memory = 1_GiB, .sm_percent = 40}).message,
              HasSubstr("may hold 50 % of a GPU's SMs and holds 20 %: no 40 % more"));
  EXPECT_THAT(node.Refused({.memory = 1_GiB}).message, HasSubstr("no 100 % more"));
  EXPECT_THAT(node.Refused({.sm_percent = 5}).message, HasSubstr("must say how much"));
  node.Get({.memory = 1_GiB, .sm_percent = 10});
  node.Get({.memory = 1_GiB, .sm_percent = 10});
  EXPECT_THAT(node.Refused({.memory = 1_GiB, .sm_percent = 10}).message,
              HasSubstr("may hold 3 shares, and holds them"));
}

TEST(Admission, DoesNotJoinAPlansServers) {
  Node node({WholeGpu(0, 80_GiB)});
  Domain planned;
  planned.name = "gpu0-search";
  planned.tenant = "search";
  planned.gpu_uuid = "GPU-0";
  planned.planned = true;
  node.ledger().AddDomain(planned);
  const Grant grant = node.Get({.memory = 1_GiB, .tenant = "search"});
  ASSERT_TRUE(grant.new_domain);
  EXPECT_EQ(grant.new_domain->name, "run-gpu0-search");
}

TEST(Admission, NamesDomainsTheSameUntilTheyAreThere) {
  Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
  const Wish wish{.memory = 1_GiB, .tenant = "a-tenant-whose-name-is-long-1"};
  Result<Grant> first = Admit(ledger, wish.Request(), Owner());
  ASSERT_TRUE(first);
  first->share.id = "s1";
  ASSERT_TRUE(ledger.Book(first->share));
  const Result<Grant> second = Admit(ledger, wish.Request(), Owner());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->share.domain, first->share.domain);
  const Wish alike{.memory = 1_GiB, .tenant = "a-tenant-whose-name-is-long-2"};
  const Result<Grant> other = Admit(ledger, alike.Request(), Owner());
  ASSERT_TRUE(other);
  EXPECT_NE(other->share.domain, first->share.domain);
}

TEST(AdmissionToMig, TakesTheSmallestFreeDevice) {
  Node node({MigGpu(0), MigDevice(0, 1, "3g.40gb", 40_GiB, 42),
             MigDevice(0, 2, "1g.10gb", 10_GiB, 14), MigDevice(0, 3, "2g.20gb", 20_GiB, 28)});
  const Grant first = node.Get({.memory = 12_GiB, .sm_percent = 20});
  EXPECT_EQ(first.share.mode, SharingMode::kMig) << "a whole GPU for MPS isn't there";
  EXPECT_EQ(first.share.mig_uuid, "MIG-00000003-x");
  EXPECT_EQ(first.share.memory, 20_GiB);
  EXPECT_FALSE(first.share.memory_limit || first.share.sm_percent || first.make);
  EXPECT_EQ(By(first.share, "sm"), "MIG instance");
  EXPECT_EQ(node.Get({.memory = 12_GiB}).share.mig_uuid, "MIG-00000001-x");
  EXPECT_EQ(node.Get({.mode = SharingMode::kMig}).share.mig_uuid, "MIG-00000002-x");
}

TEST(AdmissionToMig, SmsAreThoseOfTheWholeGpu) {
  Node node(
      {MigGpu(0), MigDevice(0, 1, "1g.10gb", 10_GiB, 14), MigDevice(0, 2, "3g.40gb", 40_GiB, 42)});
  EXPECT_EQ(node.Get({.mode = SharingMode::kMig, .sm_percent = 15}).share.mig_uuid,
            "MIG-00000002-x");
  EXPECT_EQ(node.Get({.mode = SharingMode::kMig, .sm_percent = 14}).share.mig_uuid,
            "MIG-00000001-x");
}

TEST(AdmissionToMig, MakesAnInstanceWhereOneHasRoom) {
  Device gpu = MigGpu(0);
  gpu.offers = {OfferOf("1g.10gb", 10_GiB, 14, {2, 3}), OfferOf("1g.10gb+me", 10_GiB, 14, {2}),
                OfferOf("2g.20gb", 20_GiB, 28, {}), OfferOf("3g.40gb", 40_GiB, 42, {4})};
  Node node({gpu, MigDevice(0, 1, "2g.20gb", 20_GiB, 28)});
  const Grant existing = node.Get({.mode = SharingMode::kMig, .memory = 4_GiB});
  EXPECT_EQ(existing.share.mig_uuid, "MIG-00000001-x") << "a free one is better than a new one";
  const Grant made = node.Get({.mode = SharingMode::kMig, .memory = 4_GiB});
  ASSERT_TRUE(made.make);
  EXPECT_EQ(made.make->gpu_uuid, "GPU-0");
  EXPECT_EQ(made.make->seat.profile, "1g.10gb");
  EXPECT_EQ(made.make->seat.start, 2);
  EXPECT_EQ(made.share.memory, 10_GiB);
  EXPECT_EQ(made.share.mig_uuid, "");
  EXPECT_EQ(node.Get({.mode = SharingMode::kMig, .memory = 15_GiB}).make->seat.profile, "3g.40gb");
  EXPECT_EQ(node.Get({.mode = SharingMode::kMig, .profile = "1g.10gb+me"}).make->seat.profile,
            "1g.10gb+me");
  EXPECT_THAT(node.Refused({.mode = SharingMode::kMig, .profile = "2g.20gb"}).message,
              HasSubstr("no room for a MIG instance 2g.20gb: GPU 0 has no free MIG device that "
                        "would do, and no room for a 2g.20gb beside what is there"));
  const Error unknown = node.Refused({.mode = SharingMode::kMig, .profile = "1g.20gb"});
  EXPECT_EQ(unknown.code, ErrorCode::kNotFound);
  EXPECT_THAT(unknown.hint, HasSubstr("did you mean"));
  EXPECT_EQ(node.Refused({.mode = SharingMode::kMig, .memory = 60_GiB}).code,
            ErrorCode::kInfeasible);
  EXPECT_EQ(node.Refused({.mode = SharingMode::kMig, .sm_percent = 60}).code,
            ErrorCode::kInfeasible);
}

TEST(AdmissionToMig, DoesNotPromiseWhatItMayNotMake) {
  Device gpu = MigGpu(0);
  gpu.modes.clear();
  gpu.offers = {OfferOf("1g.10gb", 10_GiB, 14, {2})};
  const Error error = Node({gpu}).Refused({.mode = SharingMode::kMig});
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.hint, HasSubstr("as root"));
  EXPECT_THAT(Node({WholeGpu(0, 80_GiB)}).Refused({.mode = SharingMode::kMig}).message,
              HasSubstr("nothing here can give a MIG instance by mig: GPU 0 is not in MIG mode"));
}

TEST(AdmissionToMig, SharesAMigDeviceThatIsNamed) {
  Node node({MigGpu(0), MigDevice(0, 1, "1g.10gb", 10_GiB, 14)});
  const Error error = node.Refused({.mode = SharingMode::kMps, .memory = 1_GiB});
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.hint, HasSubstr("--gpu MIG-"));
  const Grant grant = node.Get({.memory = 1_GiB, .sm_percent = 50, .gpu = "MIG-00000001-x"});
  EXPECT_EQ(grant.share.mode, SharingMode::kMps);
  EXPECT_EQ(grant.share.device_uuid(), "MIG-00000001-x");
  EXPECT_EQ(grant.new_domain->name, "run-gpu0-00000001-default");
  EXPECT_EQ(grant.new_domain->mig_uuid, "MIG-00000001-x");
  EXPECT_THAT(node.Refused({.mode = SharingMode::kMig}).message, Not(HasSubstr("MIG-0")))
      << "only the GPU's own entry is told";
}

}  // namespace
}  // namespace sublet
