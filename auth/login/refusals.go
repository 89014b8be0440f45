package login

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// step is a call that strangers can make.
type step int

const (
	begin step = iota
	identify
	prove
	redeem
	headless
	steps
)

var stepNames = [steps]string{"begin", "identify", "prove", "redeem", "headless"}

// RefusalCounts counts refusals of strangers by step, and those that the log's rate kept out of it.
type RefusalCounts struct{ Begin, Identify, Prove, Redeem, Headless, Unlogged uint64 }

// A stranger can cause so many lines: a burst, then one every logEvery.
const (
	logBurst = 50
	logEvery = time.Second
)

// refusals is where refusals before a provider vouched end: nothing of them enters the store.
type refusals struct {
	log      *slog.Logger
	now      func() time.Time
	limit    *rate.Limiter
	counts   *[steps]atomic.Uint64
	unlogged *atomic.Uint64
}

func newRefusals(log *slog.Logger, now func() time.Time) refusals {
	return refusals{
		log:      log,
		now:      now,
		limit:    rate.NewLimiter(rate.Every(logEvery), logBurst),
		counts:   new([steps]atomic.Uint64),
		unlogged: new(atomic.Uint64),
	}
}

func (r refusals) record(at step, by identity.Identity, from string, why error) {
	r.counts[at].Add(1)
	if !r.limit.AllowN(r.now(), 1) {
		r.unlogged.Add(1)
		return
	}
	level := slog.LevelInfo
	if k := fault.KindOf(why); k == fault.Unavailable || k == fault.Internal {
		level = slog.LevelWarn // not the stranger's fault
	}
	r.log.Log(
		context.Background(),
		level,
		"login refused",
		"step",
		stepNames[at],
		"proxy",
		by.Name,
		"from",
		audit.Truncate(from),
		"kind",
		fault.KindOf(why),
		"err",
		why,
	)
}

func (r refusals) snapshot() RefusalCounts {
	return RefusalCounts{
		Begin:    r.counts[begin].Load(),
		Identify: r.counts[identify].Load(),
		Prove:    r.counts[prove].Load(),
		Redeem:   r.counts[redeem].Load(),
		Headless: r.counts[headless].Load(),
		Unlogged: r.unlogged.Load(),
	}
}
