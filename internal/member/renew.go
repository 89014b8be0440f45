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

// Run renews the certificates at two thirds of their lifetime, give or take a twentieth. After a failure it
// tries again with growing pauses until it succeeds, also after they have expired, because auth knows the
// keys. It returns nil when ctx ends.
func (m *Member) Run(ctx context.Context) error {
	retry := backoff.Backoff{Min: firstRetry / 2, First: firstRetry, Max: lastRetry}
	due := m.due()
	for m.sleepUntil(ctx, due) {
		err := m.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			due = m.due()
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

// sleepUntil waits until the clock says due. It reports false when ctx ends first.
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

// due is when to renew next. It is spread at random, so that machines that joined together renew at different
// times.
func (m *Member) due() time.Time {
	c := m.current.Load()
	life := c.id.Expires.Sub(c.notBefore.Add(identity.Skew)) // certificates are backdated by Skew
	life = max(life, 3*firstRetry)
	spread := time.Duration(rand.Int64N(int64(life)/10 + 1))
	return c.id.Expires.Add(-life/3 - life/20 + spread)
}

// renew fetches new certificates for the same keys, verifies that they are for the same identity, saves them,
// and only then uses them.
func (m *Member) renew(ctx context.Context) error {
	res, err := authrpc.Call(ctx, m.Auth(), authrpc.Renew, authrpc.RenewRequest{Time: m.cfg.Now()})
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			m.TryNext()
		}
		return explainCallError(err, m.cfg.Now())
	}
	now := m.cfg.Now()
	renewed, err := m.keys.verify(m.cfg.Kind, m.pin, res, now)
	if err != nil {
		return unverifiedFault(err, res.Time, now)
	}
	if old := m.Identity(); renewed.id.ID != old.ID || renewed.id.Cluster != old.Cluster {
		return unverifiedFault(errors.New("the certificate is another machine's"), res.Time, now)
	}
	doc := document{Pin: m.pin, SSHCert: res.SSHCert, X509: res.X509, Rules: res.Rules}
	if err := doc.save(m.cfg.Dir); err != nil {
		return err
	}
	m.current.Store(renewed)
	for _, c := range m.clients {
		c.Close() // idle connections still use the old certificate
	}
	return nil
}
