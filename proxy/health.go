package proxy

import (
	"context"
	"errors"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health says why the proxy cannot serve now: it is no member of its cluster yet, it has stopped, or its
// rules are too old to decide by.
func (p *Proxy) Health(context.Context) error {
	select {
	case <-p.ended:
		stopped := fault.New(fault.Unavailable, "proxy.Health", "the proxy has stopped", "start it again")
		return errors.Join(stopped, p.err)
	default:
	}
	select {
	case <-p.ready:
		return p.carrier.Current().Usable(p.cfg.Now())
	default:
		return fault.New(fault.Unavailable, "proxy.Health",
			"the proxy has not joined its cluster yet", "check its log")
	}
}
