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

// get returns the certificate for a handshake, whatever name the browser asks for. At most once every
// checkEvery it looks whether the file has changed, and then reads the pair again. A pair that cannot be read
// may be half written: the old one stays, and the next check tries again. The error is always nil.
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

// load reads the pair from disk and keeps it. After an error the old pair stays. The caller holds mu, or no
// other goroutine knows f yet.
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
