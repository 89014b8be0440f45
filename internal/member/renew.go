package member

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
	// maxSleep bounds each wait, so that a machine that slept or whose clock was set notices soon.
	maxSleep = time.Minute
)

// Run renews the certificates at two thirds of their life, give or take a twentieth, and tries again with
// growing pauses until it succeeds: also after they have ended, because auth knows the keys. It returns nil
// when ctx ends.
func (m *Member) Run(ctx context.Context) error {
	due, pause := m.due(), time.Duration(0)
	for m.sleep(ctx, due) {
		err := m.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			due, pause = m.due(), 0
			m.cfg.Log.Info("certificates renewed", "until", m.Identity().Expires)
		default:
			pause = nextPause(pause)
			due = m.cfg.Now().Add(pause)
			m.cfg.Log.Warn(
				"certificates could not be renewed",
				"err",
				err,
				"remedy",
				fault.Remedy(err),
				"until",
				m.Identity().Expires,
				"again",
				pause,
			)
		}
	}
	return nil
}

// sleep waits until the clock says due. It reports false when ctx ended first.
func (m *Member) sleep(ctx context.Context, due time.Time) bool {
	for {
		wait := due.Sub(m.cfg.Now())
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(wait, maxSleep))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// due is when to renew next. The spread keeps machines that joined together from coming back together.
func (m *Member) due() time.Time {
	h := m.current.Load()
	life := h.id.Expires.Sub(h.notBefore.Add(identity.Skew)) // certificates are dated back by Skew
	life = max(life, 3*firstRetry)
	spread := time.Duration(rand.Int64N(int64(life)/10 + 1))
	return h.id.Expires.Add(-life/3 - life/20 + spread)
}

// nextPause gives the next pause: doubled up to lastRetry, then spread over its upper half.
func nextPause(pause time.Duration) time.Duration {
	base := min(max(2*pause, firstRetry), lastRetry)
	return base/2 + time.Duration(rand.Int64N(int64(base/2)+1))
}

// renew fetches and verifies fresh certificates for the same keys and the same identity, keeps them, and only
// then uses them.
func (m *Member) renew(ctx context.Context) error {
	res, err := authrpc.Call(ctx, m.Auth(), authrpc.Renew, authrpc.RenewRequest{Time: m.cfg.Now()})
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			m.TryNext()
		}
		return explainCallError(err, m.cfg.Now())
	}
	now := m.cfg.Now()
	h, err := m.keys.verify(m.cfg.Kind, m.pin, res, now)
	if err != nil {
		return unverifiedFault(err, res.Time, now)
	}
	if old := m.Identity(); h.id.ID != old.ID || h.id.Cluster != old.Cluster {
		return unverifiedFault(errors.New("the certificate is another machine's"), res.Time, now)
	}
	doc := document{Pin: m.pin, SSHCert: res.SSHCert, X509: res.X509, Rules: res.Rules}
	if err := doc.save(m.cfg.Dir); err != nil {
		return err
	}
	m.current.Store(h)
	for _, c := range m.clients {
		c.Close() // idle connections still show the old certificate
	}
	return nil
}
