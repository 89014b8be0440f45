package proxy

import "context"

// Health returns nil if the proxy can serve now, else an error that says why not: it is no member of its
// cluster yet, it has stopped, or its rules are too old to decide by.
func (p *Proxy) Health(context.Context) error {
	if err := p.ready.Check(); err != nil {
		return err
	}
	return p.carrier.Current().Usable(p.cfg.Now())
}
