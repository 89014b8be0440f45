package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// While the authority cannot be reached nobody waits for it: browsers get the proxy's own certificate, and a
// stop is a stop.
func TestUnreachableACMEAuthorityDelaysNoHandshake(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	directory := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-answer
	}))
	defer directory.Close()
	defer close(answer)
	own := &tls.Certificate{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCertificate(t, ca, directory.Certificate().Raw)
	a, err := newAutomatic(
		ctx,
		ACME{Directory: directory.URL, CAFile: ca, Hosts: []string{"a.example.com"}},
		t.TempDir(),
		func() (*tls.Certificate, error) { return own, nil },
		proxytest.Log(),
	)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	<-asked
	for _, name := range []string{"a.example.com", "b.example.com", ""} {
		if got, err := a.get(&tls.ClientHelloInfo{ServerName: name}); got != own || err != nil {
			t.Errorf("%q: got %v, %v, want the proxy's own certificate at once", name, got, err)
		}
	}
	if c, err := a.challenge(&tls.ClientHelloInfo{ServerName: "a.example.com", SupportedProtos: []string{"acme-tls/1"}}); err == nil {
		t.Errorf("got %v for a challenge that nobody is waiting for, want an error", c)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("got %v at the end, want none", err)
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	for _, tt := range []struct {
		status      int
		pause, want string
	}{
		{200, "3600", "3"}, {200, "2", "2"}, {200, "Fri, 01 Jan 2100 00:00:00 GMT", "3"}, {201, "", ""}, {429, "3600", "3600"},
	} {
		resp := &http.Response{StatusCode: tt.status, Header: http.Header{}}
		if tt.pause != "" {
			resp.Header.Set("Retry-After", tt.pause)
		}
		if hurry(resp); resp.Header.Get("Retry-After") != tt.want {
			t.Errorf("%d %q: got %q, want %q", tt.status, tt.pause, resp.Header.Get("Retry-After"), tt.want)
		}
	}
}

func TestBadACMEAuthorityFileFailsAtStart(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, bytes.Repeat([]byte("x"), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/none", empty} {
		_, err := newAutomatic(
			t.Context(),
			ACME{CAFile: file, Hosts: []string{"a.example.com"}},
			t.TempDir(),
			nil,
			proxytest.Log(),
		)
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an invalid fault with a remedy", file, err)
		}
	}
}
