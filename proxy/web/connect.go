package web

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
)

// connKey is the key of a request's connection in its context.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connect accepts a WebSocket and passes its byte stream to Config.Connect. It is for tsh and machines, which
// use TLS inside the WebSocket. Browsers are refused: no web page may connect to this port as a machine does.
// A browser always sends Origin with a WebSocket.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	outer, ok := r.Context().Value(connKey{}).(net.Conn)
	enabled := ok && s.cfg.Connect != nil && s.cfg.Transport == dial.WebSocket
	fromBrowser := r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
	switch {
	case !enabled:
		http.Error(w, "This proxy accepts no WebSockets: spec.proxy.transport is not websocket.",
			http.StatusNotFound)
		return
	case fromBrowser:
		http.Error(w, "This address is not for browsers.", http.StatusForbidden)
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{})
	if err != nil { // Accept has answered the request
		s.cfg.Log.Debug("no WebSocket", "from", r.RemoteAddr, "err", err)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // guard has set it
	s.cfg.Connect(outer, egress.NewStream(ws, local, net.TCPAddrFromAddrPort(from), s.cfg.KeepAlive))
}

// clientAddr returns the address of the client, with a port. For a request from a balancer in
// Config.Balancers it is the last address in X-Forwarded-For, with port 0. Only the last address is believed:
// the balancer itself has added it, and the client may have sent the others. Without a usable address in the
// header it is the balancer's own.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !s.fromBalancer(peer.Addr()) {
		return r.RemoteAddr
	}
	lines := r.Header.Values("X-Forwarded-For")
	if len(lines) == 0 {
		return r.RemoteAddr
	}
	hops := strings.Split(lines[len(lines)-1], ",")
	if a, ok := parseForwarded(strings.TrimSpace(hops[len(hops)-1])); ok {
		return netip.AddrPortFrom(a, 0).String()
	}
	return r.RemoteAddr
}

// clientHost returns the address of the client without the port. guard has set RemoteAddr. The result is not
// valid if the address is not known.
func clientHost(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from.Addr()
}

// parseForwarded parses an address as balancers write it, with or without a port.
func parseForwarded(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}

func (s *Server) fromBalancer(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(s.cfg.Balancers, func(n netip.Prefix) bool { return n.Contains(a) })
}
