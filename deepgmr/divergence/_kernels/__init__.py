"""What the divergences are made of; nobody else imports it."""
