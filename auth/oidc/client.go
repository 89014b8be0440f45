package oidc

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// callTimeout bounds one request to a provider, including the body of the response.
	callTimeout = 10 * time.Second
	// maxBody bounds the body of a response, in bytes. Discovery documents and key sets have a few kilobytes.
	maxBody = 1 << 20
	// maxHeader bounds the header of a response, in bytes.
	maxHeader = 64 << 10
)

// newClient makes the HTTP client for all requests to providers. A nil transport means one with this
// package's limits. The client follows no redirects: an endpoint is exactly where the discovery document says
// it is, and the client secret goes nowhere else.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  callTimeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        time.Minute,
		}
	}
	return &http.Client{
		Transport:     limitedTransport{transport},
		Timeout:       callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// limitedTransport limits response bodies to maxBody: a read beyond that returns an error. The libraries that
// use it read bodies whole, without a limit of their own.
type limitedTransport struct{ base http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxBody}
	return resp, nil
}

// limitedBody is a response body of which at most left more bytes can be read.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the response is larger than %d bytes", maxBody)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
