package owncert_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/owncert"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeIssuer issues certificates for a day. It is used by one goroutine at a time.
type fakeIssuer struct {
	times []time.Time // of every request
	fail  int         // so many requests after the first fail
}

func (f *fakeIssuer) ForAuth(
	context.Context,
	identity.Identity,
	crypto.PublicKey,
) ([]*x509.Certificate, error) {
	f.times = append(f.times, time.Now())
	if n := len(f.times); n > 1 && n <= 1+f.fail {
		return nil, errors.New("the disk is full")
	}
	leaf := &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour)}
	return []*x509.Certificate{leaf}, nil
}

// The certificate lives for a day, so the first renewal is due after 16 hours. Two renewals fail, each is
// tried again after a minute, and the old certificate stays until one succeeds.
func TestTheCertificateIsRenewedAtTwoThirdsOfItsLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		issuer := &fakeIssuer{fail: 2}
		k := owncert.New(owncert.Config{Issuer: issuer, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if got := k.Certificate(); got != nil {
			t.Errorf("before the first Renew: got %v, want no certificate", got)
		}
		if err := k.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := k.Certificate()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()

		<-time.After(16*time.Hour + 90*time.Second) // two failures, at 16h and a minute later
		synctest.Wait()
		if k.Certificate() != first {
			t.Error("got another certificate after renewals that failed, want the one before")
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if k.Certificate() == first {
			t.Error("got the first certificate after a renewal, want another")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v from Run, want nil", err)
		}
		want := []time.Duration{0, 16 * time.Hour, 16*time.Hour + time.Minute, 16*time.Hour + 2*time.Minute}
		for i, at := range issuer.times {
			if i >= len(want) || at.Sub(start) != want[i] {
				t.Errorf("request %d came after %s, want requests after %v", i, at.Sub(start), want)
			}
		}
	})
}
