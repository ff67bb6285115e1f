"""What a policy acts in: parallel gymnasium environments, with their experts and signals of success."""
