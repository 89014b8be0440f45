package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// ServiceManager is the service manager that started this program, if one did. Everything said to none is
// lost.
type ServiceManager struct{ log *slog.Logger }

// NewServiceManager tells the service manager what is said; a message that does not reach it is a warning in
// the log.
func NewServiceManager(log *slog.Logger) ServiceManager { return ServiceManager{log} }

// Ready says that the program is up, and in a few words what it does.
func (m ServiceManager) Ready(status string) {
	m.notify(daemon.SdNotifyReady, "STATUS="+oneLine(status))
}

// Stopping says that the program is ending, and that it may take as long as within.
func (m ServiceManager) Stopping(within time.Duration) {
	m.notify(
		daemon.SdNotifyStopping,
		fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", within.Microseconds()),
		"STATUS=waiting for sessions to end, at most "+within.String(),
	)
}

// FeedWatchdog tells the manager's watchdog, where it has one, that the program is alive for as long as its
// parts answer at all, until ctx ends.
func (m ServiceManager) FeedWatchdog(ctx context.Context, h *Health) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return err
	}
	tick := time.NewTicker(every / 3) // sd_watchdog_enabled(3) recommends half of it at most
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, every/3)
		h.Check(
			look,
		) // a part that is not ready is alive; one that heeds no deadline keeps the next line from being reached
		cancel()
		m.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m ServiceManager) notify(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be told", "err", err)
	}
}

// oneLine keeps a status from being taken for more messages.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
