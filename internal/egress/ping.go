package egress

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
)

// Bounds of asking a proxy for its ping document.
const (
	pingTimeout  = 5 * time.Second
	maxPingBytes = 16 << 10
	maxHeadBytes = 16 << 10
)

// notPingError is an HTTPS server that gave no ping document.
type notPingError struct{ err error }

func (e *notPingError) Error() string { return "no ping document: " + e.err.Error() }

func (e *notPingError) Unwrap() error { return e.err }

// ping asks the proxy at addr for its ping document. Whoever stands on the way can alter it: nothing in it
// may be trusted but how the proxy wants to be spoken to, for whoever lies about that only keeps a connection
// from coming about.
func (w *Dialer) ping(ctx context.Context, addr string) (p dial.Ping, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := w.DialContext(ctx, "tcp", addr)
	if err != nil {
		return p, err
	}
	client := singleConnClient(conn, addr)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+dial.PingPath, nil)
	if err != nil {
		conn.Close()
		return p, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		conn.Close()
		return p, &notPingError{err}
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxPingBytes)).Decode(&p); err != nil ||
		resp.StatusCode != http.StatusOK {
		return p, &notPingError{errors.Join(errors.New(resp.Status), err)}
	}
	return p, nil
}

// singleConnClient is an HTTP/1.1 client for one request over conn, under TLS that nothing relies on: what
// matters is pinned inside.
func singleConnClient(conn net.Conn, addr string) *http.Client {
	outer := &tls.Config{
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
	}
	used := false
	return &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if used {
					return nil, errors.New("the connection broke off")
				}
				used = true
				return handshake(ctx, conn, addr, outer)
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeadBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
