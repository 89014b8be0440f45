package tsh_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

const handlePrefix = "sealed-"

func (tc *testCluster) beginHeadless(
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

// redeemHeadless gives the next of headlessAnswers.
func (tc *testCluster) redeemHeadless(
	r authrpc.RedeemHeadlessRequest,
) (authrpc.RedeemHeadlessResponse, error) {
	tc.mu.Lock()
	next := tc.headlessAnswers[0]
	tc.headlessAnswers = tc.headlessAnswers[1:]
	tc.mu.Unlock()
	var none authrpc.RedeemHeadlessResponse
	switch next {
	case "refuse":
		return none, faulttest.New(fault.Expired, "login", "this page has expired", "start again: tsh login")
	case "away":
		return none, faulttest.New(fault.Unavailable, "login", "there is no leader now", "try again")
	case "wait":
		return none, nil
	}
	code := "good-" + strings.TrimPrefix(r.Handle, handlePrefix)
	res, err := tc.redeem(authrpc.RedeemLoginRequest{Code: code, Keys: r.Keys})
	return authrpc.RedeemHeadlessResponse{Login: &res}, err
}

// loginHeadless runs a headless login. It also returns the addresses that tsh printed.
func (c *client) loginHeadless(answers []string, flags ...string) (result, []string) {
	c.t.Helper()
	c.tc.mu.Lock()
	c.tc.headlessAnswers = answers
	c.tc.mu.Unlock()
	var pages []string
	args := append([]string{"--headless", "--pin", c.tc.Pin().String()}, flags...)
	r := c.loginIn(c.t.Context(), func(string) {}, args...)
	for line := range strings.Lines(r.out) {
		if page, ok := strings.CutPrefix(line, "Open: "); ok {
			pages = append(pages, strings.TrimSpace(page))
		}
	}
	return r, pages
}

// A headless login polls until the user has approved it, also while the auth service is unavailable.
func TestHeadlessLoginWaitsForApproval(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	r, pages := c.loginHeadless([]string{"wait", "away", "approve"}, "--connector", "corp")
	if r.code != 0 || len(pages) != 1 {
		t.Fatalf("got %d %s and pages %q, want to be logged in", r.code, r.stderr, pages)
	}
	u, err := url.Parse(pages[0])
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Path != authrpc.HeadlessPath || u.Host != tc.addr ||
		!strings.HasPrefix(q.Get("handle"), handlePrefix) || q.Get("connector") != "corp" {
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
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	r, _ := c.loginHeadless([]string{"wait", "refuse"})
	c.wantRefusal(r, "a headless login that nobody approved", 1, "this page has expired", "tsh login")
	args := []string{"login", "--headless", "--browser=none", "--proxy", tc.addr}
	c.refused(1, args, "--headless opens no browser")
}
