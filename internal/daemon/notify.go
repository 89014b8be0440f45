package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// ServiceManager is the service manager that started this program. Without one, its methods do nothing.
type ServiceManager struct{ log *slog.Logger }

// NewServiceManager makes a ServiceManager. A notification that cannot be sent is a warning in the log.
func NewServiceManager(log *slog.Logger) ServiceManager { return ServiceManager{log} }

// Ready says that the program is ready, with a short status for the service manager to show.
func (m ServiceManager) Ready(status string) {
	m.notify(daemon.SdNotifyReady, "STATUS="+oneLine(status))
}

// Stopping says that the program is stopping. The service manager waits for within, at least, before it kills
// the program.
func (m ServiceManager) Stopping(within time.Duration) {
	m.notify(
		daemon.SdNotifyStopping,
		fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", within.Microseconds()),
		"STATUS=waiting for sessions to end, at most "+within.String(),
	)
}

// FeedWatchdog tells the service manager's watchdog, again and again until ctx ends, that the program is
// alive. Before each time it checks the parts of h. Their result does not matter, because a restart does not
// help a part that is not ready. But if a check hangs, FeedWatchdog hangs with it, and the manager restarts
// the program. Without a watchdog it only waits. The error is about the watchdog's settings.
func (m ServiceManager) FeedWatchdog(ctx context.Context, h *Health) error {
	timeout, err := daemon.SdWatchdogEnabled(false /* keep the environment variables */)
	if err != nil || timeout == 0 {
		<-ctx.Done()
		return err
	}
	interval := timeout / 3 // sd_watchdog_enabled(3) recommends half of it at most
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		checkCtx, cancel := context.WithTimeout(ctx, interval)
		h.Check(checkCtx) // a part that ignores its context hangs here
		cancel()
		m.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// notify sends the lines as one notification.
func (m ServiceManager) notify(lines ...string) {
	if _, err := daemon.SdNotify(false /* keep the environment */, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be notified", "err", err)
	}
}

// oneLine replaces line ends in a status, which the service manager would read as further messages.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
