package tsh_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

const handlePrefix = "sealed-"

func (w *testCluster) beginHeadless(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	return authrpc.BeginHeadlessResponse{
		Handle:       handlePrefix + r.Challenge,
		Code:         "WDJB-MJHT",
		From:         "203.0.113.9",
		PollInterval: time.Millisecond,
		Expires:      time.Now().Add(10 * time.Minute),
	}, nil
}

// redeemHeadless gives the next of the answers that a test put up.
func (w *testCluster) redeemHeadless(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.RedeemHeadlessRequest,
) (authrpc.RedeemHeadlessResponse, error) {
	w.mu.Lock()
	next := w.headlessAnswers[0]
	w.headlessAnswers = w.headlessAnswers[1:]
	w.mu.Unlock()
	switch next {
	case "refuse":
		return authrpc.RedeemHeadlessResponse{}, fault.New(
			fault.Expired,
			"login",
			"this page has ended",
			"start again: tsh login",
		)
	case "away":
		return authrpc.RedeemHeadlessResponse{}, fault.New(
			fault.Unavailable,
			"login",
			"no leader just now",
			"try again",
		)
	case "wait":
		return authrpc.RedeemHeadlessResponse{}, nil
	}
	res, err := w.redeem(
		ctx,
		by,
		authrpc.RedeemLoginRequest{Code: "good-" + strings.TrimPrefix(r.Handle, handlePrefix), Keys: r.Keys},
	)
	return authrpc.RedeemHeadlessResponse{Login: &res}, err
}

func (c *client) headless(asked []string, flags ...string) (result, []string) {
	c.t.Helper()
	c.w.mu.Lock()
	c.w.headlessAnswers = asked
	c.w.mu.Unlock()
	var pages []string
	r := c.loginIn(
		c.t.Context(),
		func(string) {},
		append([]string{"--headless", "--pin", c.w.keys.Pin().String()}, flags...)...)
	for line := range strings.Lines(r.out) {
		if page, ok := strings.CutPrefix(line, "Open: "); ok {
			pages = append(pages, strings.TrimSpace(page))
		}
	}
	return r, pages
}

func TestHeadlessLoginWaitsForApproval(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	r, pages := c.headless([]string{"wait", "away", "approve"}, "--connector", "corp")
	if r.code != 0 || len(pages) != 1 {
		t.Fatalf("got %d %s and pages %q, want to be logged in", r.code, r.stderr, pages)
	}
	u, err := url.Parse(pages[0])
	if err != nil || u.Path != authrpc.HeadlessPath ||
		!strings.HasPrefix(u.Query().Get("handle"), handlePrefix) ||
		u.Query().Get("connector") != "corp" ||
		u.Host != w.addr {
		t.Errorf("got %s, want the proxy's page with handle and connector", pages[0])
	}
	for _, want := range []string{"WDJB-MJHT", "203.0.113.9", "an hour"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("got %q, want %q in it", r.stderr, want)
		}
	}
	if out := c.ok("status"); !strings.Contains(out, "alice@example.com") {
		t.Errorf("got status %q, want alice", out)
	}
}

func TestHeadlessLoginThatFails(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	r, _ := c.headless([]string{"wait", "refuse"})
	c.wantRefusal(r, "a headless login that nobody approved", 1, "this page has ended", "tsh login")
	c.refused(
		1,
		[]string{"login", "--headless", "--browser=none", "--proxy", w.addr},
		"--headless opens no browser",
	)
}
