// What each kind of traffic is made of. A maker draws from one seeded source, in the order in which
// things happen to it, so that a parameter of one part leaves the others as they were where it can.
#include "replay/traffic_makers.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include "replay/seeded_random.h"

namespace sublet {
namespace {

constexpr double kMany = 1e6;
constexpr double kLongest = 1e6;  // Tokens.

const TrafficParameter kSeed{"seed", 1, 0, 9e15, "another one gives other arrivals and lengths"};

std::int64_t NsOf(double seconds) {
  return std::llround(seconds * 1e9);
}

void MakeSharedPrefix(const TrafficValues& in, TraceBuilder& out) {
  SeededRandom random(in.seed());
  out.Expect(in.Of("groups") * in.Of("questions"));
  if (out.full()) return;
  std::vector<std::uint32_t> texts(in.Count("groups"));
  for (std::uint32_t& text : texts) text = out.NewContent();
  std::vector<std::uint32_t> order;
  for (const std::uint32_t text : texts) order.insert(order.end(), in.Count("questions"), text);
  random.Shuffle(std::span(order));
  double at_s = 0;
  for (const std::uint32_t text : order) {
    if (out.full()) return;
    at_s += random.Exponential(1 / in.Of("rate"));
    out.Piece(text, in.Count("prefix"));
    out.Piece(out.NewContent(), in.Count("question"));
    out.Add({.at_ns = NsOf(at_s), .output_tokens = in.Count("output")});
  }
}

// A conversation that goes on: each turn's prompt is all that was said before, and something new.
class Conversation {
 public:
  Conversation(std::vector<PromptPiece> head, std::uint32_t session, std::int64_t at_ns)
      : pieces_(std::move(head)), session_(session), at_ns_(at_ns) {}

  void Turn(TraceBuilder& out, std::uint32_t added, std::uint32_t answer, double pause_s) {
    pieces_.push_back({out.NewContent(), added});
    for (const PromptPiece& piece : pieces_) out.Piece(piece.content, piece.tokens);
    const RequestIndex index = out.Add({.at_ns = last_ ? NsOf(pause_s) : at_ns_,
                                        .after = last_,
                                        .session = session_,
                                        .output_tokens = answer});
    pieces_.push_back({AnswerTo(index), answer});
    last_ = index;
  }

 private:
  std::vector<PromptPiece> pieces_;
  std::uint32_t session_;
  std::int64_t at_ns_;
  std::optional<RequestIndex> last_;
};

void MakeChat(const TrafficValues& in, TraceBuilder& out) {
  SeededRandom random(in.seed());
  std::vector<std::uint32_t> systems(in.Count("systems"));
  for (std::uint32_t& system : systems) system = out.NewContent();
  double at_s = 0;
  for (std::uint32_t session = 0; session < in.Count("sessions") && !out.full(); ++session) {
    at_s += random.Exponential(1 / in.Of("rate"));
    const std::uint32_t system = systems[random.Below(in.Count("systems"))];
    Conversation chat({{system, in.Count("system")}}, session, NsOf(at_s));
    // As many people leave after each turn: the number of turns is geometric.
    const double turns = std::ceil(random.Exponential(in.Of("turns")));
    for (double turn = 0; turn < std::clamp(turns, 1.0, 50.0); ++turn) {
      const std::uint32_t question = random.Around(in.Of("question"));
      const std::uint32_t answer = random.Around(in.Of("answer"));
      chat.Turn(out, question, answer, random.Exponential(in.Of("think")));
    }
  }
}

void MakeAgents(const TrafficValues& in, TraceBuilder& out) {
  SeededRandom random(in.seed());
  const std::uint32_t system = out.NewContent();
  std::vector<std::uint32_t> tools(in.Count("kinds"));
  for (std::uint32_t& kind : tools) kind = out.NewContent();
  double at_s = 0;
  for (std::uint32_t run = 0; run < in.Count("runs") && !out.full(); ++run) {
    at_s += random.Exponential(1 / in.Of("rate"));
    const std::uint32_t kind = tools[random.Below(in.Count("kinds"))];
    Conversation agent({{system, in.Count("system")}, {kind, in.Count("tools")}}, run, NsOf(at_s));
    const std::uint32_t steps = random.Around(in.Of("steps"));
    for (std::uint32_t step = 0; step < steps && !out.full(); ++step) {
      const std::uint32_t added = random.Around(in.Of(step == 0 ? "task" : "result"));
      const std::uint32_t answer = random.Around(in.Of("answer"));
      agent.Turn(out, added, answer, random.Exponential(in.Of("pause")));
    }
  }
}

void MakeRag(const TrafficValues& in, TraceBuilder& out) {
  SeededRandom random(in.seed());
  const std::uint32_t head = out.NewContent();
  std::vector<PromptPiece> documents(in.Count("documents"));
  for (PromptPiece& document : documents) {
    document = {out.NewContent(), random.Around(in.Of("document"))};
  }
  const ZipfRanks ranks(in.Count("documents"), in.Of("zipf"));
  const std::uint32_t chosen = std::min(in.Count("chosen"), in.Count("documents"));
  double at_s = 0;
  for (std::uint32_t i = 0; i < in.Count("requests") && !out.full(); ++i) {
    at_s += random.Exponential(1 / in.Of("rate"));
    std::vector<std::uint32_t> picked;
    // Few of many: a rank that was drawn already is drawn again. A bound, since a steep Zipf of few
    // documents might draw the same ones for long.
    for (int draws = 0; picked.size() < chosen && draws < 1000; ++draws) {
      const std::uint32_t rank = ranks.Draw(random);
      if (std::ranges::find(picked, rank) == picked.end()) picked.push_back(rank);
    }
    out.Piece(head, in.Count("head"));
    for (const std::uint32_t rank : picked) {
      out.Piece(documents[rank].content, documents[rank].tokens);
    }
    out.Piece(out.NewContent(), random.Around(in.Of("question")));
    out.Add({.at_ns = NsOf(at_s), .output_tokens = random.Around(in.Of("output"))});
  }
}

void MakeVideo(const TrafficValues& in, TraceBuilder& out) {
  SeededRandom random(in.seed());
  const std::uint32_t head = out.NewContent();
  const auto library = [&](std::string_view count, std::string_view tokens) {
    std::vector<PromptPiece> pieces(in.Count(count));
    for (PromptPiece& piece : pieces) piece = {out.NewContent(), random.Around(in.Of(tokens))};
    return pieces;
  };
  const std::vector<PromptPiece> videos = library("videos", "video");
  const std::vector<PromptPiece> images = library("images", "image");
  const ZipfRanks video_ranks(in.Count("videos"), in.Of("zipf"));
  const ZipfRanks image_ranks(in.Count("images"), in.Of("zipf"));
  double at_s = 0;
  for (std::uint32_t i = 0; i < in.Count("requests") && !out.full(); ++i) {
    at_s += random.Exponential(1 / in.Of("rate"));
    out.Piece(head, in.Count("head"));
    const double kind = random.Uniform();
    if (kind < in.Of("video_share")) {
      const PromptPiece& video = videos[video_ranks.Draw(random)];
      out.Piece(video.content, video.tokens);
    } else if (kind < in.Of("video_share") + in.Of("image_share")) {
      for (std::uint32_t n = 1 + random.Below(3); n > 0; --n) {
        const PromptPiece& image = images[image_ranks.Draw(random)];
        out.Piece(image.content, image.tokens);
      }
    }
    out.Piece(out.NewContent(), random.Around(in.Of("question")));
    out.Add({.at_ns = NsOf(at_s), .output_tokens = random.Around(in.Of("output"))});
  }
}

using Maker = void (*)(const TrafficValues&, TraceBuilder&);

constexpr std::pair<std::string_view, Maker> kMakers[] = {{"shared-prefix", MakeSharedPrefix},
                                                          {"chat", MakeChat},
                                                          {"agents", MakeAgents},
                                                          {"rag", MakeRag},
                                                          {"video", MakeVideo}};

TrafficParameter Rate(double value, std::string_view meaning) {
  return {"rate", value, 1e-3, 1e5, meaning};
}

TrafficParameter Tokens(std::string_view name, double value, std::string_view meaning) {
  return {name, value, 1, kLongest, meaning};
}

TrafficParameter Number(std::string_view name, double value, std::string_view meaning) {
  return {name, value, 1, kMany, meaning};
}

}  // namespace

const std::vector<TrafficKind>& TrafficKinds() {
  static const std::vector<TrafficKind> kKinds = {
      {"shared-prefix",
       "groups that ask about a long text of their own",
       {Number("groups", 150, "texts"), Tokens("prefix", 6000, "tokens of a text"),
        Number("questions", 5, "about each text"), Tokens("question", 1200, "tokens of a question"),
        Tokens("output", 1000, "tokens of an answer"), Rate(10, "requests a second"), kSeed}},
      {"chat",
       "people who write again when they have read the answer",
       {Number("sessions", 600, "conversations"),
        Number("turns", 6, "of each, on average"),
        Number("systems", 4, "different system prompts"),
        Tokens("system", 1000, "tokens of a system prompt"),
        Tokens("question", 150, "tokens that a person writes"),
        Tokens("answer", 300, "tokens of an answer"),
        {"think", 20, 0, 1e5, "seconds from an answer to the next question"},
        Rate(1.5, "conversations begun a second"),
        kSeed}},
      {"agents",
       "programs with long instructions and tools, which grow step by step",
       {Number("runs", 150, "of agents"),
        Number("steps", 20, "of a run"),
        Tokens("system", 3000, "tokens of instructions that all have"),
        Number("kinds", 3, "of agents, each with its tools"),
        Tokens("tools", 2000, "tokens of a kind's tools"),
        Tokens("task", 400, "tokens of a task"),
        Tokens("result", 700, "tokens that a tool gives back"),
        Tokens("answer", 120, "tokens of a step's answer"),
        {"pause", 2, 0, 1e5, "seconds that a tool takes"},
        Rate(0.4, "runs begun a second"),
        kSeed}},
      {"rag",
       "questions behind documents, of which few are asked for often",
       {Number("requests", 2000, "questions"),
        Tokens("head", 400, "tokens that all begin with"),
        Number("documents", 1500, "in the corpus"),
        Tokens("document", 1000, "tokens of a document"),
        {"zipf", 1, 0, 4, "exponent of the documents' popularity"},
        Number("chosen", 5, "documents in a prompt"),
        Tokens("question", 80, "tokens of a question"),
        Tokens("output", 200, "tokens of an answer"),
        Rate(6, "requests a second"),
        kSeed}},
      {"video",
       "videos and images by content beside plain text: heavy prefill",
       {Number("requests", 1500, "questions"),
        Tokens("head", 300, "tokens that all begin with"),
        Number("videos", 120, "different ones"),
        Tokens("video", 12000, "tokens of a video"),
        Number("images", 800, "different ones"),
        Tokens("image", 1600, "tokens of an image"),
        {"video_share", 0.3, 0, 1, "of the requests have a video"},
        {"image_share", 0.4, 0, 1, "of the requests have one to three images"},
        {"zipf", 0.9, 0, 4, "exponent of the contents' popularity"},
        Tokens("question", 120, "tokens of a question"),
        Tokens("output", 250, "tokens of an answer"),
        Rate(6, "requests a second"),
        kSeed}},
  };
  return kKinds;
}

void MakeTraffic(const TrafficValues& values, TraceBuilder& builder) {
  const auto maker =
      std::ranges::find(kMakers, values.kind(), &std::pair<std::string_view, Maker>::first);
  CHECK(maker != std::end(kMakers));
  maker->second(values, builder);
}

}  // namespace sublet
