package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// face is what strangers are shown.
type face struct {
	cert      func(*tls.ClientHelloInfo) (*tls.Certificate, error) // to browsers
	challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error) // to an ACME authority; nil: to none
	run       func(context.Context) error                          // keeps it good until ctx ends
}

// webCertificate chooses between files, ACME and the proxy's own certificate.
func (p *Proxy) webCertificate(ctx context.Context, m Member) (face, error) {
	idle := func(ctx context.Context) error { <-ctx.Done(); return nil }
	switch {
	case p.cfg.ACME != nil:
		a, err := newAutomatic(
			ctx,
			*p.cfg.ACME,
			filepath.Join(p.cfg.Dir, "acme"),
			m.TLSCertificate,
			p.cfg.Log,
		)
		if err != nil {
			return face{}, err
		}
		return face{a.get, a.challenge, a.Run}, nil
	case p.cfg.CertFile != "":
		f := &certFile{cert: p.cfg.CertFile, key: p.cfg.KeyFile, now: p.cfg.Now, log: p.cfg.Log}
		if err := f.load(); err != nil {
			return face{}, fault.Wrap(
				err,
				fault.Invalid,
				"proxy.Run",
				"the web certificate cannot be used",
				"check "+p.cfg.CertFile+" and "+p.cfg.KeyFile,
			)
		}
		return face{f.get, nil, idle}, nil
	}
	return face{
		func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.TLSCertificate() },
		nil,
		idle,
	}, nil
}

// lookEvery is how often a certificate file is looked at, when somebody connects.
const lookEvery = time.Minute

// certFile is a certificate on disk that somebody else renews.
type certFile struct {
	cert, key string
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // guards what follows
	held    *tls.Certificate
	changed time.Time // of the file that is held
	looked  time.Time
}

func (f *certFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		if info, err := os.Stat(f.cert); err == nil && !info.ModTime().Equal(f.changed) {
			if err := f.load(); err != nil { // half written, perhaps: the old one stays until the next look
				f.log.Warn("the new web certificate cannot be used yet", "file", f.cert, "err", err)
			}
		}
	}
	return f.held, nil
}

func (f *certFile) load() error {
	info, err := os.Stat(f.cert)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	f.held, f.changed = &pair, info.ModTime()
	return nil
}
