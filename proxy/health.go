package proxy

import (
	"context"
	"errors"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health says why the proxy cannot serve now: it is no member yet, it has ended, or its rules are too old to
// decide by.
func (p *Proxy) Health(context.Context) error {
	select {
	case <-p.ended:
		return errors.Join(
			fault.New(fault.Unavailable, "proxy.Health", "the proxy has stopped", "start it again"),
			p.err,
		)
	default:
	}
	select {
	case <-p.ready:
		return p.carrier.Current().Usable(p.cfg.Now())
	default:
		return fault.New(
			fault.Unavailable,
			"proxy.Health",
			"the proxy is not in the cluster yet",
			"look at its log",
		)
	}
}
