package proxy

import "context"

// Health says why the proxy cannot serve now: it is no member of its cluster yet, it has stopped, or its
// rules are too old to decide by.
func (p *Proxy) Health(context.Context) error {
	if err := p.ready.Check(); err != nil {
		return err
	}
	return p.carrier.Current().Usable(p.cfg.Now())
}
