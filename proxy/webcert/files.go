package webcert

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkEvery is how often the file of the certificate is checked for changes. A handshake makes the check.
const checkEvery = time.Minute

// certFiles is a certificate and its key on disk, which another program renews.
type certFiles struct {
	cert, key string // paths
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // guards the fields below
	loaded  *tls.Certificate
	modTime time.Time // of the file that is loaded
	checked time.Time // when the file was last checked
}

// get returns the certificate, and first reads it again when the file has changed. A pair that cannot be
// read may be half written: the old one stays until the next check.
func (f *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= checkEvery {
		f.checked = now
		if info, err := os.Stat(f.cert); err == nil && !info.ModTime().Equal(f.modTime) {
			if err := f.load(); err != nil {
				f.log.Warn("the new web certificate cannot be used; the old one stays",
					"file", f.cert, "err", err, "retry_in", checkEvery)
			}
		}
	}
	return f.loaded, nil
}

// load reads the pair. The caller holds mu, or is the only user.
func (f *certFiles) load() error {
	info, err := os.Stat(f.cert)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	f.loaded, f.modTime = &pair, info.ModTime()
	return nil
}
