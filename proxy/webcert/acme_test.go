package webcert

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acmeConfig is a configuration for one host with the directory and the CA file of an authority. service is
// the service certificate.
func acmeConfig(t *testing.T, directory, caFile string, service *tls.Certificate) Config {
	return Config{
		ACME:    &ACME{Directory: directory, CAFile: caFile, Hosts: []string{"a.example.com"}},
		ACMEDir: t.TempDir(),
		Service: func() (*tls.Certificate, error) { return service, nil },
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	}
}

// While the authority does not answer, browsers get the service certificate at once, and a stop does not
// wait.
func TestUnreachableACMEAuthorityDelaysNoHandshake(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	authority := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-answer
	}))
	defer authority.Close()
	defer close(answer)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	service := &tls.Certificate{}
	c, err := New(ctx, acmeConfig(t, authority.URL, caFile, service))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	<-asked
	for _, name := range []string{"a.example.com", "b.example.com", ""} {
		if got, err := c.Get(&tls.ClientHelloInfo{ServerName: name}); got != service || err != nil {
			t.Errorf("%q: got %v, %v, want the service certificate at once", name, got, err)
		}
	}
	hello := &tls.ClientHelloInfo{ServerName: "a.example.com", SupportedProtos: []string{"acme-tls/1"}}
	if got, err := c.Challenge(hello); err == nil {
		t.Errorf("got %v for a challenge without an order, want an error", got)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("got %v at the end, want none", err)
	}
}

// A long Retry-After is shortened to 3 s, so that an order does not wait for hours, but not in a response
// with an error.
func TestRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		status      int
		pause, want string
	}{
		{"an hour", 200, "3600", "3"},
		{"a short pause", 200, "2", "2"},
		{"a date", 200, "Fri, 01 Jan 2100 00:00:00 GMT", "3"},
		{"no pause", 201, "", ""},
		{"an hour with an error", 429, "3600", "3600"},
	} {
		resp := &http.Response{StatusCode: tt.status, Header: http.Header{}}
		if tt.pause != "" {
			resp.Header.Set("Retry-After", tt.pause)
		}
		limitRetryAfter(resp)
		if got := resp.Header.Get("Retry-After"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestBadACMEAuthorityFileFailsAtStart(t *testing.T) {
	t.Parallel()
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/nonexistent", noPEM} {
		_, err := New(t.Context(), acmeConfig(t, "", file, nil))
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an invalid fault with a remedy", file, err)
		}
	}
}
