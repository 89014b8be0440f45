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

// Add adds a part of the program. check returns nil if the part works, and otherwise why it does not: the
// message is shown to whoever asks. check is called for each request to /healthz and /readyz, possibly by
// several goroutines at once, and must return when its context ends.
func (h *Health) Add(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parts = append(h.parts, part{name, check})
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

// Check checks every part, one after the other in the order in which they were added, and returns the state
// of the program. The program is ready if it has started, is not stopping, and each part is ready.
func (h *Health) Check(ctx context.Context) Status {
	h.mu.Lock()
	parts := h.parts // only ever appended to
	status := Status{Ready: h.started && !h.stopping, Stopping: h.stopping, Parts: []Part{}}
	h.mu.Unlock()
	for _, p := range parts {
		state := Part{Name: p.name, Ready: true}
		if err := p.check(ctx); err != nil {
			state.Ready, state.Reason = false, fault.Message(err)
			status.Ready = false
		}
		status.Parts = append(status.Parts, state)
	}
	return status
}

// CheckHealthAddr returns an error unless addr is a loopback address with a port: the state of the program is
// for its own machine alone. The error begins with a verb, as in "is not on loopback", so that the caller can
// put the name of the setting in front.
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

// ListenHealth listens on addr, for Serve. With an empty addr it returns nil and no error: health is not
// served then. The error is a fault.
func ListenHealth(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if err := CheckHealthAddr(addr); err != nil {
		return nil, healthAddressInvalid.Wrap(err, "daemon", fault.Args{"address": addr, "why": err.Error()})
	}
	l, err := net.Listen("tcp", addr)
	return l, healthAddressUsed.Wrap(err, "daemon", fault.Args{"address": addr})
}

// Serve serves the state of the program on l until ctx ends. Then it closes l and all connections and returns
// nil. It returns early only if l fails, with that error. If l is nil it serves nothing and waits for ctx.
//
// Both pages show the same Status. /healthz always has the HTTP status 200, because the program runs. /readyz
// has 503 if the program is not ready.
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
		status, code := h.Check(r.Context()), http.StatusOK
		if !status.Ready {
			code = http.StatusServiceUnavailable
		}
		writeStatus(w, code, status)
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
