#include "store/row_codec.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "model/json_fields.h"

namespace sublet::store {
namespace {

// A command's name may be anything, JSON text is UTF-8: other bytes become U+FFFD.
std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

template <typename Enum>
Value Word(const EnumWords<Enum>& words, Enum value) {
  return std::string(WordOf(words, value));
}

Value Number(const std::optional<int>& number) {
  return number ? Value(std::int64_t{*number}) : Value();
}

void AddProcess(Values& values, const std::optional<Process>& process) {
  if (!process) {
    values.insert(values.end(), 3, Value());
    return;
  }
  values.emplace_back(std::int64_t{process->pid});
  values.emplace_back(process->start_ticks);
  values.emplace_back(std::int64_t{process->uid});
}

void AddPlan(Values& values, const std::optional<PlanRow>& plan) {
  values.push_back(plan ? Value(plan->plan) : Value());
  values.push_back(plan ? Value(plan->directory) : Value());
}

// Takes a row's columns one after the other. Keeps the first error and gives empty values after it,
// so that a codec reads like a list of columns; Finish() has the error.
class RowReader {
 public:
  explicit RowReader(const Values& values) : values_(values) {}

  std::string Text() {
    if (auto* text = std::get_if<std::string>(&Next())) return *text;
    return Reject<std::string>("a text");
  }
  std::int64_t Integer() {
    if (auto* number = std::get_if<std::int64_t>(&Next())) return *number;
    return Reject<std::int64_t>("a number");
  }
  template <typename T>
  T IntegerAs() {
    const std::int64_t number = Integer();
    if (!std::in_range<T>(number)) return Reject<T>("a smaller number");
    return static_cast<T>(number);
  }
  bool Truth() {
    const std::int64_t number = Integer();
    if (number != 0 && number != 1) return Reject<bool>("0 or 1");
    return number == 1;
  }
  template <typename Enum>
  Enum Word(const EnumWords<Enum>& words) {
    const std::string word = Text();
    for (const auto& [name, value] : words) {
      if (name == word) return value;
    }
    return Reject<Enum>("a word that is known");
  }
  std::optional<int> OptionalInteger() {
    if (AtNull()) return Skip(1);
    return IntegerAs<int>();
  }
  std::optional<Process> OptionalProcess() {
    if (AtNull()) {
      Skip(3);
      return std::nullopt;
    }
    Process process;
    process.pid = IntegerAs<int>();
    process.start_ticks = Integer();
    process.uid = IntegerAs<unsigned>();
    return process;
  }
  std::optional<PlanRow> OptionalPlan() {
    if (AtNull()) {
      Skip(2);
      return std::nullopt;
    }
    PlanRow plan;
    plan.plan = Text();
    plan.directory = Text();
    return plan;
  }
  // A column whose text `parse` reads: Result<T>(text, source).
  template <typename Parse>
  auto Parsed(const Parse& parse) {
    const std::string text = Text();
    auto value = parse(text, "the node's state");
    if (!value && !error_) error_ = std::move(value).error();
    return value ? std::move(*value) : std::remove_cvref_t<decltype(*value)>();
  }
  Status Finish() const {
    if (error_) return tl::unexpected<Error>(*error_);
    return {};
  }

 private:
  bool AtNull() const {
    return next_ < values_.size() && std::holds_alternative<std::monostate>(values_[next_]);
  }
  const Value& Next() {
    static const Value kNothing;
    return next_ < values_.size() ? values_[next_++] : kNothing;
  }
  std::nullopt_t Skip(std::size_t columns) {
    next_ += columns;
    return std::nullopt;
  }
  template <typename T>
  T Reject(std::string_view wanted) {
    if (!error_) {
      error_ = Fail(ErrorCode::kInvalid, fmt::format("column {} of a row is not {}", next_, wanted))
                   .value();
    }
    return T();
  }

  const Values& values_;
  std::size_t next_ = 0;
  std::optional<Error> error_;
};

// `row`, unless a column was wrong.
template <typename Row>
Result<Row> Finished(const RowReader& in, Row row) {
  RETURN_IF_ERROR(in.Finish());
  return row;
}

}  // namespace

Values ToValues(const ShareRow& row) {
  Values values{row.share.id, Dump(ShareToJson(row.share)), Word(RowStateWords(), row.state),
                std::int64_t{row.replica}};
  AddProcess(values, row.process);
  values.emplace_back(row.log);
  values.emplace_back(row.target);
  return values;
}

Result<ShareRow> ShareFromValues(const Values& values) {
  ShareRow row;
  RowReader in(values);
  in.Text();  // The key, which the share has too.
  row.share = in.Parsed(ParseShare);
  row.state = in.Word(RowStateWords());
  row.replica = in.Truth();
  row.process = in.OptionalProcess();
  row.log = in.Text();
  row.target = in.Text();
  return Finished(in, std::move(row));
}

Values ToValues(const DomainRow& row) {
  Values values{row.domain.name, Dump(DomainToJson(row.domain)), Word(RowStateWords(), row.state),
                row.pipe_directory};
  AddProcess(values, row.daemon);
  values.emplace_back(std::int64_t{row.restarts});
  values.emplace_back(std::int64_t{row.limits_confirmed});
  return values;
}

Result<DomainRow> DomainFromValues(const Values& values) {
  DomainRow row;
  RowReader in(values);
  in.Text();  // The key, which the domain has too.
  row.domain = in.Parsed(ParseDomain);
  row.state = in.Word(RowStateWords());
  row.pipe_directory = in.Text();
  row.daemon = in.OptionalProcess();
  row.restarts = in.IntegerAs<int>();
  row.limits_confirmed = in.Truth();
  return Finished(in, std::move(row));
}

Values ToValues(const MigInstanceRow& row) {
  return {row.gpu_uuid,
          std::int64_t{row.start},
          row.profile,
          Word(RowStateWords(), row.state),
          Number(row.instance_id),
          row.mig_uuid,
          row.made_for};
}

Result<MigInstanceRow> MigInstanceFromValues(const Values& values) {
  MigInstanceRow row;
  RowReader in(values);
  row.gpu_uuid = in.Text();
  row.start = in.IntegerAs<int>();
  row.profile = in.Text();
  row.state = in.Word(RowStateWords());
  row.instance_id = in.OptionalInteger();
  row.mig_uuid = in.Text();
  row.made_for = in.Text();
  return Finished(in, std::move(row));
}

Values ToValues(const MigStepRow& row) {
  return {std::int64_t{row.number}, row.step, std::int64_t{row.done}};
}

Result<MigStepRow> MigStepFromValues(const Values& values) {
  MigStepRow row;
  RowReader in(values);
  row.number = in.IntegerAs<int>();
  row.step = in.Text();
  row.done = in.Truth();
  return Finished(in, std::move(row));
}

Values ToValues(const PlanRow& row) {
  return {std::int64_t{0}, row.plan, row.directory};
}

Result<PlanRow> PlanFromValues(const Values& values) {
  PlanRow row;
  RowReader in(values);
  in.Integer();  // The key, always 0.
  row.plan = in.Text();
  row.directory = in.Text();
  return Finished(in, std::move(row));
}

Values ToValues(const OperationRow& row) {
  Values values{std::int64_t{0}, row.id, Word(OperationKindWords(), row.kind)};
  AddPlan(values, row.from);
  AddPlan(values, row.to);
  values.push_back(Word(OperationDirectionWords(), row.direction));
  values.emplace_back(row.started_at);
  return values;
}

Result<OperationRow> OperationFromValues(const Values& values) {
  OperationRow row;
  RowReader in(values);
  in.Integer();  // The key, always 0.
  row.id = in.Text();
  row.kind = in.Word(OperationKindWords());
  row.from = in.OptionalPlan();
  row.to = in.OptionalPlan();
  row.direction = in.Word(OperationDirectionWords());
  row.started_at = in.Text();
  return Finished(in, std::move(row));
}

Values ToValues(const ReplicaRow& row) {
  return {row.id, std::int64_t{row.restarts}, row.last_end, Word(ReplicaWantedWords(), row.wanted)};
}

Result<ReplicaRow> ReplicaFromValues(const Values& values) {
  ReplicaRow row;
  RowReader in(values);
  row.id = in.Text();
  row.restarts = in.IntegerAs<int>();
  row.last_end = in.Text();
  row.wanted = in.Word(ReplicaWantedWords());
  return Finished(in, std::move(row));
}

Values ToValues(const NodeEvent& event) {
  return {event.sequence, event.time, event.subject_kind, event.subject, event.what, event.message};
}

Result<NodeEvent> EventFromValues(const Values& values) {
  NodeEvent event;
  RowReader in(values);
  event.sequence = in.Integer();
  event.time = in.Text();
  event.subject_kind = in.Text();
  event.subject = in.Text();
  event.what = in.Text();
  event.message = in.Text();
  return Finished(in, std::move(event));
}

}  // namespace sublet::store
