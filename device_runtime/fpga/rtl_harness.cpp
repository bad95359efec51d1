// Drives a kernel that Verilator has made of RTL: its clock and reset, its registers over AXI4-Lite, and
// the memory that its AXI4 ports ask for. `rtl.py` builds it, together with a "ports.h" that says what
// the kernel's signals are called; `rtl_unit.py` calls what is `extern "C"` here.
//
// A board's clock goes on by itself; this one goes on while somebody reads or writes registers.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr unsigned kReset = 16;        // cycles that a reset takes
constexpr unsigned kPatience = 10000;  // cycles within which a register must answer
constexpr size_t kOutstanding = 16;    // bursts that a memory takes ahead
constexpr unsigned kAfter = 64;        // cycles for which it is watched after it has said that it is done
constexpr uint64_t kPage = 4096;       // bytes whose boundaries no burst may cross
constexpr uint64_t kIncrementing = 1;  // the only type of burst that memories have
constexpr uint32_t kEnded = 2 | 4;     // bits of the first register: it is done, it is idle

// Stands for a signal that the kernel does not have.
struct Absent {
    uint64_t value = 0;
    operator uint64_t() const { return value; }
    void operator=(uint64_t) const {}
};

template <class P> class Memory;

#include "ports.h"

std::string hex(uint64_t number) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(number));
    return text;
}

// A buffer of the device.
struct Region {
    uint64_t address, nbytes;
    uint8_t *data;
};

// What one of the kernel's ports sees of memory. It answers in the next cycle, a beat in each.
template <class P> class Memory {
    struct Burst {
        Region region;
        uint64_t address, nbytes, beats, id;  // of the next beat; bytes of each, and how many are left

        uint64_t begin() const { return address & ~(nbytes - 1); }
        uint64_t lane() const { return begin() % P::bytes; }  // of the port's, where the beat lies
        void advance() { address = begin() + nbytes, --beats; }
    };

  public:
    void lay(const Region *regions, size_t count, const char *banks) {
        regions_.assign(regions, regions + count);
        banks_ = banks;
        over_ = false;
    }

    // Buffers may be gone from now on.
    void end() { over_ = true; }

    void check() const {
        if (!reads_.empty() || !writes_.empty() || !answers_.empty())
            fail("is in the midst of a burst, and the kernel has said that it is done");
    }

    // Take note of what the coming edge of the clock hands over.
    void look(Vtop &top) {
        if (P::bvalid(top) && P::bready(top)) answers_.pop_front();
        if (P::wvalid(top) && P::wready(top)) write(top);
        if (P::awvalid(top) && P::awready(top))
            writes_.push_back(burst("writes", P::awaddr(top), P::awlen(top), P::awsize(top), P::awburst(top),
                                    P::awid(top)));
        if (P::rvalid(top) && P::rready(top)) {
            reads_.front().advance();
            if (!reads_.front().beats) reads_.pop_front();
        }
        if (P::arvalid(top) && P::arready(top))
            reads_.push_back(burst("reads", P::araddr(top), P::arlen(top), P::arsize(top), P::arburst(top),
                                   P::arid(top)));
    }

    void drive(Vtop &top) {
        P::awready(top) = writes_.size() < kOutstanding;
        P::wready(top) = !writes_.empty();
        P::bvalid(top) = !answers_.empty();
        if (!answers_.empty()) P::bid(top) = answers_.front();
        P::arready(top) = reads_.size() < kOutstanding;
        P::rvalid(top) = !reads_.empty();
        if (!reads_.empty()) read(top);
    }

  private:
    [[noreturn]] static void fail(const std::string &what) {
        throw std::runtime_error("port " + std::string(P::name) + " " + what);
    }

    Burst burst(const char *does, uint64_t address, uint64_t length, uint64_t size, uint64_t type,
                uint64_t id) {
        Burst made{{}, address, uint64_t(1) << size, length + 1, id};
        const uint64_t last = made.begin() + length * made.nbytes;
        const std::string what = std::string(does) + " " + std::to_string((length + 1) * made.nbytes) +
                                 " bytes at " + hex(address);
        if (over_) fail(what + ", and the kernel has said that it is done");
        if (made.nbytes > P::bytes)
            fail(what + ", " + std::to_string(made.nbytes) + " in a beat, and has " +
                 std::to_string(P::bytes));
        if (type != kIncrementing && length)
            fail(what + " in a burst of type " + std::to_string(type) + "; only INCR is known here");
        if (made.begin() / kPage != (last + made.nbytes - 1) / kPage)
            fail(what + ", a burst across a boundary of 4096 bytes, which AXI forbids");
        auto after = std::upper_bound(regions_.begin(), regions_.end(), made.begin(),
                                      [](uint64_t at, const Region &one) { return at < one.address; });
        if (after == regions_.begin() || last - (after - 1)->address >= (after - 1)->nbytes)
            fail(what + ", which are not in a buffer; it is wired to " + banks_);
        made.region = *(after - 1);
        return made;
    }

    void write(Vtop &top) {
        Burst &now = writes_.front();
        const uint64_t strobes = P::wstrb(top), offset = now.begin() - now.region.address;
        const uint8_t *data = P::wdata(top) + now.lane();
        for (uint64_t n = 0; n < now.nbytes; ++n) {
            if (!(strobes >> (now.lane() + n) & 1)) continue;
            if (offset + n >= now.region.nbytes)
                fail("writes to " + hex(now.begin() + n) + ", behind the end of a buffer; it is wired to " +
                     banks_);
            now.region.data[offset + n] = data[n];
        }
        now.advance();
        if (P::has_wlast && (P::wlast(top) != 0) != (now.beats == 0))
            fail("says with another beat of a burst than the last one that it is the last");
        if (now.beats) return;
        answers_.push_back(now.id);
        writes_.pop_front();
    }

    void read(Vtop &top) {
        const Burst &now = reads_.front();
        const uint64_t offset = now.begin() - now.region.address;
        std::memset(P::rdata(top), 0, P::bytes);
        std::memcpy(P::rdata(top) + now.lane(), now.region.data + offset,
                    std::min(now.nbytes, now.region.nbytes - offset));
        P::rlast(top) = now.beats == 1;
        P::rid(top) = now.id;
    }

    std::vector<Region> regions_;  // by address
    std::string banks_;
    bool over_ = true;  // no run is under way
    std::deque<Burst> reads_, writes_;
    std::deque<uint64_t> answers_;  // that a burst is written: ids
};

class Simulation {
    // What an edge of the clock has handed over at the registers.
    struct Handed {
        bool aw, w, b, ar, r;
        uint32_t data, response;
    };

  public:
    uint64_t cycles = 0;

    Simulation() {
        enter();
        Control::reset(top_) = 0;
        for (unsigned n = 0; n < kReset; ++n) cycle();
        Control::reset(top_) = 1;
        cycle();
    }

    ~Simulation() {
        enter();
        try {
            top_.final();
        } catch (const std::exception &) {  // a $fatal there is one too many
        }
    }

    // Verilator's runtime knows by the thread which simulation it is in, also while one is taken down.
    void enter() { Verilated::threadContextp(&context_); }

    void lay(unsigned port, const Region *regions, size_t count, const char *banks) {
        unsigned place = 0;
        std::apply([&](auto &...each) { ((place++ == port ? each.lay(regions, count, banks) : void()), ...); },
                   memories_);
    }

    // The run has ended: nothing of it may touch memory any more.
    void end() {
        std::apply([](auto &...each) { (each.end(), ...); }, memories_);
        for (unsigned n = 0; n < kAfter; ++n) cycle();
        std::apply([](const auto &...each) { (each.check(), ...); }, memories_);
    }

    void write(uint32_t offset, uint32_t word) {
        Control::awaddr(top_) = offset;
        Control::wdata(top_) = word;
        Control::wstrb(top_) = 15;
        Control::awvalid(top_) = Control::wvalid(top_) = Control::bready(top_) = 1;
        for (unsigned n = 0; n < kPatience; ++n) {
            const Handed handed = cycle();
            if (handed.aw) Control::awvalid(top_) = 0;
            if (handed.w) Control::wvalid(top_) = 0;
            if (!handed.b) continue;
            if (Control::awvalid(top_) || Control::wvalid(top_)) early("a write to", offset);
            Control::bready(top_) = 0;
            return check("a write to", offset, handed.response);
        }
        never("a write to", offset);
    }

    uint32_t read(uint32_t offset) {
        Control::araddr(top_) = offset;
        Control::arvalid(top_) = Control::rready(top_) = 1;
        for (unsigned n = 0; n < kPatience; ++n) {
            const Handed handed = cycle();
            if (handed.ar) Control::arvalid(top_) = 0;
            if (!handed.r) continue;
            if (Control::arvalid(top_)) early("a read of", offset);
            Control::rready(top_) = 0;
            check("a read of", offset, handed.response);
            return handed.data;
        }
        never("a read of", offset);
    }

  private:
    // The kernel sees at the rising edge what was there before it, and so do we.
    Handed cycle() {
        step(0);
        const Handed handed{
            Control::awvalid(top_) && Control::awready(top_), Control::wvalid(top_) && Control::wready(top_),
            Control::bvalid(top_) && Control::bready(top_),   Control::arvalid(top_) && Control::arready(top_),
            Control::rvalid(top_) && Control::rready(top_),   Control::rdata(top_),
            uint32_t(Control::bvalid(top_) ? Control::bresp(top_) : Control::rresp(top_))};
        std::apply([&](auto &...each) { (each.look(top_), ...); }, memories_);
        step(1);
        if (Control::reset(top_)) std::apply([&](auto &...each) { (each.drive(top_), ...); }, memories_);
        ++cycles;
        return handed;
    }

    void step(unsigned level) {
        Control::clock(top_) = level;
        top_.eval();
    }

    static void check(const char *what, uint32_t offset, uint32_t response) {
        if (response)
            throw std::runtime_error(std::string(what) + " register " + hex(offset) +
                                     " was answered by error " + std::to_string(response));
    }

    [[noreturn]] static void early(const char *what, uint32_t offset) {
        throw std::runtime_error(std::string(what) + " register " + hex(offset) +
                                 " was answered before it was taken: ready was not said");
    }

    [[noreturn]] static void never(const char *what, uint32_t offset) {
        throw std::runtime_error(std::string(what) + " register " + hex(offset) +
                                 " was not answered within " + std::to_string(kPatience) + " cycles");
    }

    VerilatedContext context_;
    Vtop top_{&context_, "top"};
    Memories memories_;
};

struct Unit {
    std::unique_ptr<Simulation> simulation;
    std::string why;
};

// Run what may fail; return whether it did, and keep why.
template <class Body> int guarded(Unit *unit, Body body) {
    int failed = 0;
    try {
        body();
    } catch (const std::exception &error) {
        unit->why = error.what();
        failed = 1;
    }
    std::fflush(stdout);
    return failed;
}

}  // namespace

// What Verilator's runtime calls, which would end the process; a loop that does not settle goes on otherwise.
void vl_fatal(const char *file, int line, const char *, const char *why) {
    throw std::runtime_error("its Verilog ended the simulation: " + std::string(why) + " in line " +
                             std::to_string(line) + " of " + file);
}

void vl_finish(const char *file, int line, const char *hierarchy) {
    vl_fatal(file, line, hierarchy, "$finish");
}

#define OFFERED extern "C" __attribute__((visibility("default")))

OFFERED Unit *rtl_new() { return new Unit; }

OFFERED void rtl_delete(Unit *unit) { delete unit; }

OFFERED const char *rtl_why(Unit *unit) { return unit->why.c_str(); }

OFFERED uint64_t rtl_cycles(Unit *unit) { return unit->simulation->cycles; }

// Must have succeeded once before the simulation is used.
OFFERED int rtl_reset(Unit *unit) {
    return guarded(unit, [&] {
        auto made = std::make_unique<Simulation>();
        unit->simulation = std::move(made);
    });
}

OFFERED void rtl_lay(Unit *unit, unsigned port, const Region *regions, size_t count, const char *banks) {
    unit->simulation->lay(port, regions, count, banks);
}

OFFERED int rtl_end(Unit *unit) {
    return guarded(unit, [&] {
        unit->simulation->enter();
        unit->simulation->end();
    });
}

OFFERED int rtl_write(Unit *unit, uint32_t offset, uint32_t word) {
    return guarded(unit, [&] {
        unit->simulation->enter();
        unit->simulation->write(offset, word);
    });
}

OFFERED int rtl_read(Unit *unit, uint32_t offset, uint32_t *word) {
    return guarded(unit, [&] {
        unit->simulation->enter();
        *word = unit->simulation->read(offset);
    });
}

// Read the first register until it says that the run has ended, or so many seconds have passed.
OFFERED int rtl_await(Unit *unit, double seconds, uint32_t *word) {
    return guarded(unit, [&] {
        const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
        unit->simulation->enter();
        do *word = unit->simulation->read(0);
        while (!(*word & kEnded) && std::chrono::steady_clock::now() < end);
    });
}
