package tsh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// exitUnconfirmed is the exit code of "tsh lock" and "tsh lock rm" if the change is made, and not every
// machine that is attached has confirmed it.
const exitUnconfirmed = exitStatus(3)

const (
	defaultConfirmWait = 10 * time.Second
	// confirmPoll is how long the auth service may wait before it answers how many machines have confirmed:
	// so often the progress line is drawn.
	confirmPoll = 200 * time.Millisecond
	// confirmGrace is how much longer than that an answer may take.
	confirmGrace = 5 * time.Second
	// confirmRetry is the pause after a call for which the auth service was unavailable.
	confirmRetry = 100 * time.Millisecond
)

// waitFlag adds --wait to the command.
func waitFlag(cmd *cobra.Command) *time.Duration {
	return cmd.Flags().Duration("wait", defaultConfirmWait,
		"how long to wait until all machines have confirmed; 0 does not wait")
}

// confirmations is which machines have confirmed a change of locks, as JSON shows it.
type confirmations struct {
	Confirmed    int                          `json:"confirmed"`
	Total        int                          `json:"total"`   // machines that are attached
	Silent       []authrpc.UnconfirmedMachine `json:"silent"`  // of these, the first that have not confirmed
	Offline      []authrpc.UnconfirmedMachine `json:"offline"` // the first that are not attached, likewise
	OfflineCount int                          `json:"offline_count"`
}

// lockChange is a change of locks that is made.
type lockChange struct {
	Locks   []authrpc.Resource `json:"locks,omitempty"`   // that were created or changed
	Removed []string           `json:"removed,omitempty"` // the ids of those that were removed
}

// awaited is the id of the lock that machines have to confirm. It is empty if there are several or one was
// removed: machines then have to confirm all locks that there are.
func (c lockChange) awaited() string {
	if len(c.Locks) == 1 {
		return c.Locks[0].Metadata.Name
	}
	return ""
}

// confirm waits at most wait until every machine that is attached has confirmed the change, and shows the
// result; without a wait it shows the change alone. It returns exitUnconfirmed if some have not, or if the
// auth service does not say.
func (a *app) confirm(
	cmd *cobra.Command, client *authrpc.Client, change lockChange, wait time.Duration, format output.Format,
) error {
	show := func(v any) error {
		if format == output.Text { // which is shown already
			return nil
		}
		return a.write(format, v, nil /* no text */)
	}
	if wait <= 0 {
		return show(change)
	}
	progress, drawsProgress := terminal.File(a.Stderr)
	drawsProgress = drawsProgress && format == output.Text
	draw := func(res authrpc.LockConfirmationsResponse) {
		if drawsProgress {
			fmt.Fprintf(progress, "\r%s\x1b[K", confirmedText(res))
		}
	}
	res, err := awaitConfirmations(cmd.Context(), client, change.awaited(), wait, draw)
	if drawsProgress {
		fmt.Fprint(progress, "\r\x1b[K")
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case err != nil:
		f := describeError(err)
		if err := show(change); err != nil {
			return err
		}
		a.report(cmd, lockConfirmationsUnknown.Wrap(err, "", fault.Args{"why": f.Msg, "hint": f.Remedy}))
		return exitUnconfirmed
	}
	if format == output.Text {
		a.reportConfirmations(res, wait)
	}
	all := struct {
		lockChange
		confirmations
	}{change, confirmations{
		Confirmed:    res.Confirmed,
		Total:        res.Attached,
		Silent:       append([]authrpc.UnconfirmedMachine{}, res.Silent...), // not null
		Offline:      append([]authrpc.UnconfirmedMachine{}, res.Offline...),
		OfflineCount: res.OfflineCount,
	}}
	if err := show(all); err != nil {
		return err
	}
	if res.Confirmed < res.Attached {
		return exitUnconfirmed
	}
	return nil
}

// awaitConfirmations asks the auth service which machines have confirmed the lock, or all locks for an empty
// id, until all that are attached have or wait is over, and returns its last answer. It calls show with each
// answer before. While the auth service is unavailable, as at a change of its leader, it goes on to ask. Its
// errors are those of the last call, and context.Canceled.
func awaitConfirmations(
	ctx context.Context, client *authrpc.Client, lock string, wait time.Duration,
	show func(authrpc.LockConfirmationsResponse),
) (authrpc.LockConfirmationsResponse, error) {
	for end := time.Now().Add(wait); ; {
		poll := min(max(time.Until(end), 0), confirmPoll)
		callCtx, cancel := context.WithTimeout(ctx, poll+confirmGrace)
		req := authrpc.LockConfirmationsRequest{Lock: lock, Wait: poll}
		res, err := authrpc.Call(callCtx, client, authrpc.LockConfirmations, req)
		cancel()
		isOver := !time.Now().Before(end)
		switch {
		case err == nil && (isOver || res.Confirmed >= res.Attached):
			return res, nil
		case err == nil:
			show(res)
			continue
		case isOver || !fault.Is(err, fault.Unavailable):
			return res, err
		}
		select {
		case <-ctx.Done():
			return res, context.Cause(ctx)
		case <-time.After(confirmRetry):
		}
	}
}

// confirmedText says how many machines have confirmed.
func confirmedText(res authrpc.LockConfirmationsResponse) string {
	if res.Confirmed == res.Attached {
		return fmt.Sprintf("Confirmed by all %d machines", res.Attached)
	}
	return fmt.Sprintf("Confirmed by %d of %d machines", res.Confirmed, res.Attached)
}

// reportConfirmations prints the result of a wait: how many machines have confirmed, and which have not.
func (a *app) reportConfirmations(res authrpc.LockConfirmationsResponse, wait time.Duration) {
	if silent := res.Attached - res.Confirmed; silent > 0 {
		fmt.Fprintf(a.Stderr, "%s within %s.\n", confirmedText(res), fault.FormatDuration(wait))
		fmt.Fprintf(a.Stderr, "Silent: %s. Until they confirm, they may go on as before.\n",
			machineNames(res.Silent, silent))
	} else {
		fmt.Fprintf(a.Stderr, "%s.\n", confirmedText(res))
	}
	if res.OfflineCount > 0 {
		fmt.Fprintf(a.Stderr, "Offline: %s. They get the change when a proxy connects them again.\n",
			machineNames(res.Offline, res.OfflineCount))
	}
}

// maxNamed is how many machines a message names.
const maxNamed = 20

// machineNames names the first machines of list. count is how many there are, of which list has the first.
func machineNames(list []authrpc.UnconfirmedMachine, count int) string {
	var names []string
	for _, machine := range list[:min(len(list), maxNamed)] {
		name := terminal.Clean(machine.Name)
		if machine.Kind == identity.Proxy {
			name = "proxy " + name
		}
		names = append(names, name)
	}
	text := strings.Join(names, ", ")
	if more := count - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
