package tsh

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// Bounds of the interval between polls, whatever the auth service asks for.
const (
	minPollInterval = 500 * time.Millisecond
	maxPollInterval = 10 * time.Second
)

// loginHeadless logs in on a machine without a browser. It prints a link and a code, and waits until the user
// has opened the link in a browser on another machine, compared the code and approved the login. It returns
// the answer of the auth service with the certificates, which is not verified yet; see pollHeadless for its
// errors. All calls go end to end to the auth service, so that no proxy can replace the code.
func (a *app) loginHeadless(
	ctx context.Context,
	addr string,
	target cluster,
	keys *loginKeys,
	opts loginOptions,
) (authrpc.RedeemLoginResponse, error) {
	client := authrpc.NewClientWithDialer(a.dialer, addr, target.authTLS(a.Now))
	defer client.Close()
	req := authrpc.BeginHeadlessRequest{Challenge: keys.challenge(), Host: hostName()}
	begun, err := authrpc.Call(ctx, client, authrpc.BeginHeadless, req)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	fmt.Fprintln(a.Stderr, "Open this address in a browser on any machine:")
	fmt.Fprintln(a.Stdout, "Open: "+headlessURL(addr, begun.Handle, opts.connector))
	fmt.Fprintf(
		a.Stderr,
		"Continue there only if the page shows this code:  %s  (and %s as the address of this machine)\n",
		terminal.Clean(begun.Code),
		terminal.Clean(begun.From),
	)
	fmt.Fprintf(
		a.Stderr,
		"Waiting until %s. The certificates will be valid for an hour at most, and only from that address.\n",
		begun.Expires.Local().Format("15:04"),
	)
	redeemRequest := authrpc.RedeemHeadlessRequest{Handle: begun.Handle, Keys: keys.reveal()}
	return a.pollHeadless(ctx, client, redeemRequest, begun.PollInterval)
}

// pollHeadless asks the auth service for the result of the login once in each interval, and returns the
// result as soon as the user has approved the login. interval is what the auth service asked for; it is kept
// between minPollInterval and maxPollInterval. While the auth service is unavailable, pollHeadless goes on
// asking. It returns the auth service's fault if the login was refused or has expired, and the cause if ctx
// ends.
func (a *app) pollHeadless(
	ctx context.Context,
	client *authrpc.Client,
	req authrpc.RedeemHeadlessRequest,
	interval time.Duration,
) (authrpc.RedeemLoginResponse, error) {
	tick := time.NewTicker(min(max(interval, minPollInterval), maxPollInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return authrpc.RedeemLoginResponse{}, context.Cause(ctx)
		case <-tick.C:
		}
		resp, err := authrpc.Call(ctx, client, authrpc.RedeemHeadless, req)
		switch {
		case err == nil && resp.Login != nil: // nil: not approved yet
			return *resp.Login, nil
		case err != nil && !fault.Is(err, fault.Unavailable):
			return authrpc.RedeemLoginResponse{}, err
		}
	}
}

// headlessURL returns the address of the page where the user approves the login. handle is the login attempt,
// encrypted by the auth service.
func headlessURL(addr, handle, connector string) string {
	q := url.Values{"handle": {handle}}
	if connector != "" {
		q.Set("connector", connector)
	}
	return origin(addr) + authrpc.HeadlessPath + "?" + q.Encode()
}
