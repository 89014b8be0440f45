package login

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// step is a step of a login at which an unauthenticated caller can be refused.
type step int

const (
	stepBegin step = iota
	stepIdentify
	stepProve
	stepRedeem
	stepHeadless
	stepCount // how many there are
)

var stepNames = [stepCount]string{"begin", "identify", "prove", "redeem", "headless"}

// RefusalCounts counts the refusals of unauthenticated callers by step, and those that were not logged
// because of the rate limit.
type RefusalCounts struct{ Begin, Identify, Prove, Redeem, Headless, Unlogged uint64 }

// Unauthenticated callers can cause a burst of logBurst log lines, then one every logEvery.
const (
	logBurst = 50
	logEvery = time.Second
)

// refusals logs and counts the refusals before a provider has identified a user. None of them is stored:
// otherwise anyone could fill the store. It is safe for concurrent use.
type refusals struct {
	log      *slog.Logger
	now      func() time.Time
	limit    *rate.Limiter
	counts   *[stepCount]atomic.Uint64
	unlogged *atomic.Uint64
}

func newRefusals(log *slog.Logger, now func() time.Time) refusals {
	return refusals{
		log:      log,
		now:      now,
		limit:    rate.NewLimiter(rate.Every(logEvery), logBurst),
		counts:   new([stepCount]atomic.Uint64),
		unlogged: new(atomic.Uint64),
	}
}

// record counts the refusal of a caller at a step, and logs it with its reason unless the rate limit is
// reached. by is the proxy that called, if it is known, and from the client's address as the proxy reported
// it.
func (r refusals) record(at step, by identity.Identity, from string, reason error) {
	r.counts[at].Add(1)
	if !r.limit.AllowN(r.now(), 1) {
		r.unlogged.Add(1)
		return
	}
	level := slog.LevelInfo
	if k := fault.KindOf(reason); k == fault.Unavailable || k == fault.Internal {
		level = slog.LevelWarn // a problem of ours or of the provider, and not of the caller
	}
	r.log.LogAttrs(context.Background(), level, "login refused",
		slog.String("step", stepNames[at]),
		slog.String("proxy", by.Name),
		slog.String("from", audit.Truncate(from)),
		slog.Any("kind", fault.KindOf(reason)),
		slog.Any("err", reason),
	)
}

// addrText returns an address as text, and "" for one that is not known.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (r refusals) snapshot() RefusalCounts {
	return RefusalCounts{
		Begin:    r.counts[stepBegin].Load(),
		Identify: r.counts[stepIdentify].Load(),
		Prove:    r.counts[stepProve].Load(),
		Redeem:   r.counts[stepRedeem].Load(),
		Headless: r.counts[stepHeadless].Load(),
		Unlogged: r.unlogged.Load(),
	}
}
