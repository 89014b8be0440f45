package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/prefixconn"
)

const (
	// connectTimeout bounds the connection to the HTTP proxy and its reply, for callers whose context has no
	// deadline.
	connectTimeout = 30 * time.Second
	// maxReplyBytes bounds the header of the reply, and so each line of it.
	maxReplyBytes = 8 << 10
)

// connectThrough connects to the HTTP proxy and asks it for a tunnel to addr (CONNECT, RFC 9110 section
// 9.3.6). It returns a connection whose bytes are those of addr. The error is a fault, or context.Canceled.
// When ctx ends after connectThrough has returned, that has no effect on the tunnel.
func connectThrough(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := dialProxy(ctx, proxy)
	if err != nil {
		return nil, err
	}
	// A deadline in the past makes requestTunnel return when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := requestTunnel(conn, proxy, addr)
	if ctxEnded := !stop(); ctxEnded {
		err = context.Cause(ctx) // also after a success: conn has the deadline
	}
	if err != nil {
		conn.Close()
		return nil, requestTunnelFault(proxy, err)
	}
	return tunnel, nil
}

// dialProxy connects to the HTTP proxy itself: by TCP for an http:// URL, and by TLS for https://. The
// proxy's certificate is then verified by its host name and the system's roots, as a web site's is, because
// the next message may contain a password. The error is a fault.
func dialProxy(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	addr := net.JoinHostPort(proxy.Hostname(), port)
	conn, err := dialDirect(ctx, "tcp", addr)
	if err != nil {
		return nil, httpProxyUnreachable.Wrap(err, "egress", fault.Args{
			"proxy": proxy.Host,
			"why":   fault.DescribeNetwork(err),
		})
	}
	if proxy.Scheme == "http" {
		return conn, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	tc, err := handshake(ctx, conn, addr, cfg)
	if err != nil {
		return nil, httpProxyTLSFailed.Wrap(err, "egress", fault.Args{
			"proxy": proxy.Host,
			"why":   fault.DescribeNetwork(err),
		})
	}
	return tc, nil
}

// requestTunnel sends CONNECT for addr over conn, with the user and password of the proxy's URL if it has
// them, and reads the reply. It returns a connection over conn that begins after the reply. The error is a
// fault if the proxy refuses.
func requestTunnel(conn net.Conn, proxy *url.URL, addr string) (net.Conn, error) {
	var req bytes.Buffer
	fmt.Fprintf(&req, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: threshold\r\n", addr, addr)
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))
		fmt.Fprintf(&req, "Proxy-Authorization: Basic %s\r\n", basic)
	}
	req.WriteString("\r\n")
	if _, err := conn.Write(req.Bytes()); err != nil {
		return nil, err
	}
	reader := bufio.NewReaderSize(conn, maxReplyBytes)
	resp, err := readReply(reader)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, refusalFault(resp, proxy, addr)
	}
	// The reader may have read bytes of addr together with the reply. The tunnel must give them first.
	buffered, _ := reader.Peek(reader.Buffered()) // cannot fail: it peeks only at what is buffered
	if len(buffered) == 0 {
		return conn, nil
	}
	return prefixconn.New(conn, buffered), nil
}

// errBadReply says that the bytes are no reply to CONNECT.
var errBadReply = errors.New("the reply is not HTTP, or too long")

// readReply reads the status line and header of an HTTP response, up to the empty line that ends them, and
// leaves what follows in r: it belongs to the tunnel. The error is errBadReply if it is not HTTP, or if a
// line or the whole is too long, and otherwise the error of r. http.ReadResponse alone would read without a
// limit.
func readReply(r *bufio.Reader) (*http.Response, error) {
	var head []byte
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, errBadReply
		}
		if err != nil {
			return nil, err
		}
		if head = append(head, line...); len(head) > maxReplyBytes {
			return nil, errBadReply
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	request := &http.Request{Method: http.MethodConnect}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadReply, err)
	}
	resp.Body.Close()
	return resp, nil
}

// refusalFault returns the fault for a response by which the HTTP proxy refuses a tunnel to addr. The fault
// names the status and nothing else of the response, whose text may be anything.
func refusalFault(resp *http.Response, proxy *url.URL, addr string) error {
	// tinyproxy replies 401 rather than 407 to a wrong password.
	unauthenticated := resp.StatusCode == http.StatusProxyAuthRequired ||
		resp.StatusCode == http.StatusUnauthorized
	switch {
	case unauthenticated && !acceptsBasic(resp.Header):
		return httpProxyAuthenticationUnsupported.New("egress", fault.Args{
			"proxy":   proxy.Host,
			"address": addr,
		})
	case unauthenticated && proxy.User == nil:
		return httpProxyPasswordMissing.New("egress", fault.Args{"proxy": proxy.Host})
	case unauthenticated:
		return httpProxyPasswordWrong.New("egress", fault.Args{
			"proxy": proxy.Host,
			"user":  proxy.User.Username(),
		})
	case resp.StatusCode/100 == 5:
		return httpProxyTargetUnreachable.New("egress", fault.Args{
			"proxy":   proxy.Host,
			"address": addr,
			"status":  resp.StatusCode,
			"reason":  http.StatusText(resp.StatusCode),
		})
	}
	return httpProxyRefused.New("egress", fault.Args{
		"proxy":   proxy.Host,
		"address": addr,
		"status":  resp.StatusCode,
		"reason":  http.StatusText(resp.StatusCode),
	})
}

// acceptsBasic reports whether the HTTP proxy accepts a password (the scheme Basic, RFC 7617), by the header
// of its refusal. A proxy that names no authentication scheme is taken to accept one.
func acceptsBasic(h http.Header) bool {
	challenges := h.Values("Proxy-Authenticate")
	for _, list := range challenges {
		for challenge := range strings.SplitSeq(list, ",") {
			scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
			if strings.EqualFold(scheme, "Basic") {
				return true
			}
		}
	}
	return len(challenges) == 0
}

// requestTunnelFault turns an error of requestTunnel into a fault that says what to do. It returns an error
// that is a fault already, and one about a cancelled context, as it is.
func requestTunnelFault(proxy *url.URL, err error) error {
	var refusal *fault.Error
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errBadReply):
		return httpProxyNotHTTP.Wrap(err, "egress", fault.Args{"proxy": proxy.Host})
	}
	return httpProxySilent.Wrap(err, "egress", fault.Args{
		"proxy": proxy.Host,
		"why":   fault.DescribeNetwork(err),
	})
}
