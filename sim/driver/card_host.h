// sim/driver/card_host.h
//
// The shared cards as one process has them: the mapped table, its lock, and waiting.
//
//   ASSIGN_OR_RETURN(auto host, CardHost::Open(folder, node));
//   const CardHost::Locked lock(*host);           // everything below under the lock
//   CardProcess* me = host->Attach();
//   host->Submit(*me, item);
//   host->Wait(*me, {.kind = WaitKind::kStream, .index = 0, .number = me->streams[0].last});
//
// The file lies beside the node's state. Whoever opens it holds a shared lock (flock) on it; who
// gets it alone starts it afresh. A process that dies leaves its entry, which is taken back when
// somebody waits, opens the file or needs room; one that dies within the lock leaves lists half
// changed, which the next one mends (the mutex is robust).
//
// Thread safety: from any thread, under the lock.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "card_clock.h"
#include "card_table.h"
#include "sim_node.h"

namespace sublet::sim {

inline constexpr std::uint32_t kCardsMagic = 0x5CA2D002;  // Changes with the table's meaning.

// Watts at rest, and at most.
struct PowerFigures {
  double idle_w = 0;
  double busy_w = 0;
};
PowerFigures PowerOf(const SimGpu& gpu);

// Where the node's shared cards lie.
std::string CardsPath(const std::string& folder, const SimNode& node);

class CardHost {
 public:
  static Result<std::unique_ptr<CardHost>> Open(const std::string& folder, const SimNode& node);
  ~CardHost();
  CardHost(const CardHost&) = delete;
  CardHost& operator=(const CardHost&) = delete;

  class Locked {
   public:
    explicit Locked(CardHost& host) : host_(host) { host_.Lock(); }
    ~Locked() { host_.Unlock(); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

   private:
    CardHost& host_;
  };

  CardTable& table() { return *table_; }
  CardClock& clock() { return clock_; }

  // The calling process's entry, made where it has none. nullptr when the table is full.
  CardProcess* Attach();
  // The entry of a live process, or nullptr.
  CardProcess* FindProcess(int pid);
  void Detach(CardProcess& process);
  // Takes back the entries of dead processes.
  void Reap();
  // `code` befalls all clients of an MPS server.
  void BreakClientsOf(int server_pid, int code);
  // A client that was killed within a long kernel breaks its neighbours' contexts. For its server,
  // which sees the end before anybody else; Reap() does the same.
  void MournClient(int pid);

  // Brings the clock as far as it goes.
  void Advance();
  // The same, as seen by a process that may be paced by the machine's clock.
  void Follow(const CardProcess& process);
  // Submits, first waiting for room where the process has too much outstanding.
  void Submit(CardProcess& process, const CardItem& item);
  // Gives the lock away until the wait is over.
  void Wait(CardProcess& process, CardWait wait);
  // What the process takes for the present.
  std::int64_t NowOf(const CardProcess& process) const;
  // A driver call costs the process that much.
  void Charge(CardProcess& process, std::int64_t price_ns);

 private:
  CardHost(int file, CardTable* table) : file_(file), table_(table), clock_(*table) {}
  void Lock();
  void Unlock();
  void Mend();
  void Mourn(const CardProcess& process);
  void FollowMachine();
  void SleepUntilWoken(CardProcess& process, std::uint32_t seen, std::int64_t sleep_ns);

  const int file_;
  CardTable* const table_;
  CardClock clock_;
};

}  // namespace sublet::sim
