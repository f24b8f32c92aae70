// Package beat lets what is done regularly be done at the same moments: an idle process then wakes up once for all of it, and two processes whose
// clocks agree find each other awake. Most of what an idle gateway costs is waking up.
package beat

import "time"

// Until is the time until the clock next shows a multiple of period: more than 0, at most period, whatever the clock does.
func Until(period time.Duration) time.Duration {
	return min(max(period-time.Duration(time.Now().UnixNano())%period, 1), period)
}
