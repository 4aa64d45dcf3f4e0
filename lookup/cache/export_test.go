package cache

// NameGates counts the names that have a bound of their own now.
func NameGates(c *Cache) int {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return len(c.gate.names)
}

// Settle waits for the questions in the background.
func (c *Cache) Settle() { c.wg.Wait() }
