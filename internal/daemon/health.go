package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	healthTimeout        = 5 * time.Second // for reading a request, and for checking the parts
	maxHealthHeaderBytes = 8 << 10
)

// Health is the state of the program's parts. The zero value has none and is not ready. It is safe for
// concurrent use.
type Health struct {
	mu       sync.Mutex // guards what follows; not held while parts are checked
	parts    []part
	started  bool
	stopping bool
}

// part is a part of the program, with the function that checks it.
type part struct {
	name  string
	check func(context.Context) error
}

// Part is the state of one part. Reason is set when it is not ready.
type Part struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// Status is the state of the program, as /readyz returns it.
type Status struct {
	Ready    bool   `json:"ready"`
	Stopping bool   `json:"stopping"`
	Parts    []Part `json:"parts"`
}

// Add adds a part. check returns why the part cannot work now, or nil. It is called for each request,
// possibly by several goroutines at once, and must return when its context ends.
func (h *Health) Add(name string, look func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parts = append(h.parts, part{name, look})
}

// Started says that every part was added.
func (h *Health) Started() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started = true
}

// Stopping says that the program is stopping: sessions may end, and no new work should come.
func (h *Health) Stopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Check checks every part, in the order in which they were added.
func (h *Health) Check(ctx context.Context) Status {
	h.mu.Lock()
	parts, s := h.parts, Status{Ready: h.started && !h.stopping, Stopping: h.stopping, Parts: []Part{}}
	h.mu.Unlock()
	for _, p := range parts {
		at := Part{Name: p.name, Ready: true}
		if err := p.check(ctx); err != nil {
			at.Ready, at.Reason, s.Ready = false, fault.Message(err), false
		}
		s.Parts = append(s.Parts, at)
	}
	return s
}

// CheckHealthAddr refuses an address that other machines can reach: the state is for this machine alone.
func CheckHealthAddr(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return errors.New("is not an address with a port: write 127.0.0.1:3080")
	}
	if !ap.Addr().Unmap().IsLoopback() {
		return errors.New("is not on loopback, and other machines could read it: write 127.0.0.1:3080")
	}
	return nil
}

// ListenHealth opens the port for Serve. An empty address gives a nil listener.
func ListenHealth(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if err := CheckHealthAddr(addr); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "daemon",
			"the health address "+addr+" "+err.Error(),
			"change spec.health",
		)
	}
	l, err := net.Listen("tcp", addr)
	return l, fault.Wrap(err, fault.Conflict, "daemon",
		"cannot listen on "+addr+" for health",
		"stop the program that uses the port, or change spec.health",
	)
}

// Serve serves /healthz (the program runs) and /readyz (its parts work; otherwise 503) on l until ctx ends.
// With a nil listener it only waits.
func (h *Health) Serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	pages := http.NewServeMux()
	pages.HandleFunc(
		"GET /healthz",
		func(w http.ResponseWriter, r *http.Request) { writeStatus(w, http.StatusOK, h.Check(r.Context())) },
	)
	pages.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		s, code := h.Check(r.Context()), http.StatusOK
		if !s.Ready {
			code = http.StatusServiceUnavailable
		}
		writeStatus(w, code, s)
	})
	srv := &http.Server{
		Handler:        http.TimeoutHandler(pages, healthTimeout, "a part does not answer\n"),
		ReadTimeout:    healthTimeout,
		WriteTimeout:   2 * healthTimeout,
		MaxHeaderBytes: maxHealthHeaderBytes,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	srv.SetKeepAlivesEnabled(false)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case <-ctx.Done():
		_ = srv.Close()
		<-ended
		return nil
	case err := <-ended:
		return err
	}
}

func writeStatus(w http.ResponseWriter, code int, s Status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(s) // fails only when the client has hung up
}
