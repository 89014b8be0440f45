package member

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
	// maxSleep bounds each wait, so that a changed clock, or a machine that was suspended, is noticed soon.
	maxSleep = time.Minute
)

// Run renews the certificates at two thirds of their lifetime, plus or minus a twentieth, until ctx ends.
// Then it returns nil. After a failure it tries again with growing pauses until it succeeds. It goes on after
// the certificates have expired: auth renews an expired certificate for a key that it has on record.
func (m *Member) Run(ctx context.Context) error {
	retry := backoff.Backoff{Min: firstRetry / 2, First: firstRetry, Max: lastRetry}
	due := m.nextRenewal()
	for m.sleepUntil(ctx, due) {
		err := m.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			due = m.nextRenewal()
			retry.Reset()
			m.cfg.Log.Info("certificates renewed", "until", m.Identity().Expires)
		default:
			pause := retry.Next()
			due = m.cfg.Now().Add(pause)
			m.cfg.Log.Warn("certificates could not be renewed",
				"err", err, "remedy", fault.Remedy(err), "until", m.Identity().Expires, "retry_in", pause)
		}
	}
	return nil
}

// sleepUntil waits until Config.Now says due. It returns false if ctx ends first.
func (m *Member) sleepUntil(ctx context.Context, due time.Time) bool {
	for {
		wait := due.Sub(m.cfg.Now())
		if wait <= 0 {
			return ctx.Err() == nil
		}
		if !backoff.Sleep(ctx, min(wait, maxSleep)) {
			return false
		}
	}
}

// nextRenewal returns when to renew the current certificates: a third of their lifetime before they expire,
// plus or minus a twentieth at random, so that machines that joined together renew at different times. The
// time may be in the past.
func (m *Member) nextRenewal() time.Time {
	current := m.current.Load()
	issued := current.notBefore.Add(identity.Skew) // certificates are backdated by Skew
	lifetime := max(current.id.Expires.Sub(issued), 3*firstRetry)
	jitter := time.Duration(rand.Int64N(int64(lifetime)/10+1)) - lifetime/20
	return current.id.Expires.Add(-lifetime/3 + jitter)
}

// renew gets new certificates for the same keys from auth, verifies them, saves them, and only then makes
// them current: after a crash the machine has either the old ones or the new ones. Certificates for another
// identity are refused. If auth cannot be reached, the next call tries the next address.
func (m *Member) renew(ctx context.Context) error {
	res, err := authrpc.Call(ctx, m.Auth(), authrpc.Renew, authrpc.RenewRequest{Time: m.cfg.Now()})
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			m.TryNext()
		}
		return explainCallError(err, m.cfg.Now())
	}
	now := m.cfg.Now()
	renewed, err := m.keys.verifyMembership(m.cfg.Kind, m.pin, res, now)
	if err != nil {
		return unverifiedFault(err, res.Time, now)
	}
	if old := m.Identity(); renewed.id.ID != old.ID || renewed.id.Cluster != old.Cluster {
		return unverifiedFault(errors.New("the certificate is another machine's"), res.Time, now)
	}
	saved := savedMembership{Pin: m.pin, SSHCert: res.SSHCert, X509: res.X509, Rules: res.Rules}
	if err := saved.save(m.cfg.Dir); err != nil {
		return err
	}
	m.current.Store(renewed)
	for _, c := range m.clients {
		c.Close() // idle connections still use the old certificate
	}
	return nil
}
