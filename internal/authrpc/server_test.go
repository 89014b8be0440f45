package authrpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// A flood of calls that are refused does not become a flood of log lines, whether strangers call themselves
// or by way of a proxy. Users are known, and each refusal of theirs is written.
func TestAnonymousRefusalsDoNotFillTheLog(t *testing.T) {
	for kind, all := range map[identity.Kind]bool{authrpc.Anonymous: false, identity.Proxy: false, identity.User: true} {
		var log bytes.Buffer
		s := authrpc.NewServer(func(*http.Request) (authrpc.Caller, error) {
			return authrpc.Caller{
				Identity: identity.Identity{Kind: kind},
				Addr:     &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 40022},
				Proxy:    "edge",
			}, nil
		}, slog.New(slog.NewTextHandler(&log, nil)))
		authrpc.Handle(
			s,
			authrpc.RedeemLogin,
			func(context.Context, authrpc.Caller, authrpc.RedeemLoginRequest) (res authrpc.RedeemLoginResponse, err error) {
				return res, fault.New(fault.Denied, "test", "no", "stop") // and a proxy may not even ask
			},
		)
		const calls = 1000
		for range calls {
			s.ServeHTTP(
				httptest.NewRecorder(),
				httptest.NewRequest(http.MethodPost, authrpc.RedeemLogin.Path(), strings.NewReader("{}")),
			)
		}
		if !strings.Contains(log.String(), "from=192.0.2.7:40022 via=edge") {
			t.Errorf("%s: got %.200q, want to read where it came from", kind, log.String())
		}
		if lines := strings.Count(log.String(), "\n"); lines == 0 || (lines == calls) != all {
			t.Errorf("%s: got %d lines for %d refusals, want all of them: %v", kind, lines, calls, all)
		}
	}
}
