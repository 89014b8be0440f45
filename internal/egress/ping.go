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

// Bounds of fetching a ping document.
const (
	pingTimeout  = 5 * time.Second
	maxPingBytes = 16 << 10
	maxHeadBytes = 16 << 10
)

// notPingError says that an HTTPS server answered without a ping document.
type notPingError struct{ err error }

func (e *notPingError) Error() string { return "no ping document: " + e.err.Error() }

func (e *notPingError) Unwrap() error { return e.err }

// ping fetches the ping document of the proxy at addr. Its TLS is not verified, so whoever is in between can
// alter it. Only the transport may be used: a false one does no more than make connections fail.
func (d *Dialer) ping(ctx context.Context, addr string) (p dial.Ping, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", addr)
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

// singleConnClient is an HTTP/1.1 client that makes one request over conn, under TLS that it does not verify:
// what matters is verified by the pinned TLS inside.
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
					return nil, errors.New("the connection has ended")
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
